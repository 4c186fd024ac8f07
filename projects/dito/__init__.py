"""DITO: image-text pretraining for open-vocabulary detection (Kim et al., 2023)."""

from typing import TYPE_CHECKING

from projects.dito.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.dito.inference import Detector
    from projects.dito.module import DITO

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DITO]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.dito import folder, stages, tasks
    from projects.dito.evaluate import evaluate
    from projects.dito.own_boxes import judge_boxes

    experiment: Experiment[DITO] = experiment_of(
        cfg,
        stages.stages,
        evaluate,
        folder.export,
        folder.load,
        folder.embed,
        stages.plan,
        {"detect": tasks.detect, "locality": tasks.report_locality},
    )
    return replace(experiment, judges={Layout.BOXES: partial(judge_boxes, cfg)})


def load(folder: "Path") -> "Detector":
    """The detector of an exported folder: a picture and free names -> boxes."""
    from projects.dito.inference import Detector

    return Detector(folder)
