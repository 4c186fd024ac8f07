"""CLOSE: visual tasks from text alone, across CLIP's modality gap (Gu et al., ICCV 2023)."""

from typing import TYPE_CHECKING

from projects.close.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.close.inference import Captioner
    from projects.close.module import CLOSE

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[CLOSE]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.close import folder, stages, tasks
    from projects.close.evaluate import evaluate
    from projects.close.own_captions import judge_captions

    experiment: Experiment[CLOSE] = experiment_of(
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


def load(folder: "Path") -> "Captioner":
    """CLIP and decoder of an exported folder, from pictures to texts."""
    from projects.close.inference import Captioner

    return Captioner(folder)
