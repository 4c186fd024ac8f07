"""COSMO: contrast and generation in one interleaved language model (Wang et al., arXiv 2024)."""

from typing import TYPE_CHECKING

from projects.cosmo.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.cosmo.inference import Cosmo
    from projects.cosmo.module import COSMO

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[COSMO]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.cosmo import folder, stages, tasks
    from projects.cosmo.evaluate import evaluate
    from projects.cosmo.own_captions import judge_captions

    experiment: Experiment[COSMO] = experiment_of(
        cfg,
        stages.stages,
        evaluate,
        folder.export,
        folder.load,
        folder.embed,
        stages.plan,
        tasks.TASKS,
    )
    return replace(experiment, judges={Layout.CAPTIONS: partial(judge_captions, cfg)})


def load(folder: "Path") -> "Cosmo":
    """The model of an exported folder: texts for pictures, and vectors of both."""
    from projects.cosmo.inference import Cosmo

    return Cosmo(folder)
