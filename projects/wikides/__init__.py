"""WikiDes: short descriptions, generated and re-ranked (Ta et al., Information Fusion 2023)."""

from typing import TYPE_CHECKING, Any

from projects.wikides.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.decoding.sequence_to_sequence import SequenceToSequence
    from common.engine.experiment import Experiment
    from projects.wikides.encoder import RankerEncoder

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Any]":
    """The experiment of a config: phase I, describing, or phase II, ranking.

    Heavy imports happen here.
    """
    from dataclasses import replace
    from functools import partial

    from common.engine.experiment import experiment_of
    from projects.wikides import candidates, collect, describe, rank, tasks

    phase = describe if cfg.phase == "describe" else rank
    experiment: Experiment[Any] = experiment_of(
        cfg,
        phase.stages,
        phase.evaluate,
        phase.export,
        phase.load_export,
        phase.embed,
        phase.plan,
        {
            "collect": collect.collect,
            "candidates": candidates.write_candidates,
            "choices": tasks.choices,
        },
    )
    with_model = {
        "rank": tasks.rank,
        "describe": tasks.describe,
        "form": tasks.form,
        "sentiment": tasks.sentiment,
    }
    made = {name: partial(task, cfg, experiment=experiment) for name, task in with_model.items()}
    return replace(experiment, tasks={**experiment.tasks, **made})


def load(folder: "Path") -> "RankerEncoder | SequenceToSequence":
    """The ranker's encoder, or the generator, of an exported folder."""
    from projects.wikides.exported import load_exported

    return load_exported(folder)
