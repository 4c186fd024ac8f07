"""PROP and B-PROP: pre-training a re-ranker with representative words (Ma et al. 2021)."""

from typing import TYPE_CHECKING

from projects.b_prop.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.cross_encoder import CrossEncoder
    from common.engine.experiment import Experiment
    from projects.b_prop.module import BProp

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[BProp]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.engine.experiment import experiment_of
    from projects.b_prop import prepare, tasks
    from projects.b_prop.evaluate import evaluate
    from projects.b_prop.stages import embed, export, load_export, plan, stages

    experiment = experiment_of(
        cfg,
        stages,
        evaluate,
        export,
        load_export,
        embed,
        plan,
        {"prepare": prepare.prepare, "word_sets": prepare.word_sets},
    )
    return replace(
        experiment,
        tasks={**experiment.tasks, "rank": partial(tasks.rank, cfg, experiment=experiment)},
    )


def load(folder: "Path") -> "CrossEncoder":
    """The re-ranker of an exported folder."""
    from common.export.cross_encoder import load_cross_encoder

    return load_cross_encoder(folder)
