"""COCONUT: continual contrastive spoken language understanding (Cappellazzo et al., 2024)."""

from typing import TYPE_CHECKING

from projects.coconut.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.coconut.module import Coconut
    from projects.coconut.speech.recognizer import Recognizer

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Coconut]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.coconut.evaluate import evaluate
    from projects.coconut.export import embed, export, load_export, plan
    from projects.coconut.own_recordings import judge_recordings
    from projects.coconut.stages import stages

    experiment = experiment_of(cfg, stages, evaluate, export, load_export, embed, plan)
    return replace(experiment, judges={Layout.RECORDINGS: partial(judge_recordings, cfg)})


def load(folder: "Path") -> "Recognizer":
    """The speech model of an exported folder; it decodes as its run did."""
    from projects.coconut.exported import load_exported

    return load_exported(folder)
