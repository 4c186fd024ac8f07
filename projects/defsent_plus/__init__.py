"""DefSent+: definition sentences against unlimited dictionary entries, in rounds (2024)."""

from typing import TYPE_CHECKING

from projects.defsent_plus.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.defsent_plus.module import DefSentPlus

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DefSentPlus]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.families.sentences.experiment import sentence_experiment
    from projects.defsent_plus.data import definition_views, dictionary_requirements
    from projects.defsent_plus.evaluate import evaluate
    from projects.defsent_plus.export import export, load_export
    from projects.defsent_plus.module import DefSentPlus, num_samples
    from projects.defsent_plus.stages import stages
    from projects.defsent_plus.tasks import lookup, write_entries

    experiment = sentence_experiment(
        cfg,
        DefSentPlus,
        lambda cfg, encoder: definition_views(cfg, encoder),
        evaluate=evaluate,
        stages=stages,
        tasks={"entries": write_entries},
        requirements=dictionary_requirements,
        num_samples=num_samples,
        num_views=1,
    )
    experiment = replace(experiment, export=export, load_export=load_export)
    look = partial(lookup, cfg, experiment=experiment)
    return replace(experiment, tasks={**experiment.tasks, "lookup": look})


def load(folder: "Path") -> "DefSentPlus":
    """Encoder and dictionary of an exported folder."""
    from projects.defsent_plus.export import load_export

    return load_export(folder)
