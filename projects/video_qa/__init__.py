"""Video QA: contrastive learning for multiple-choice questions (Kim et al., AAAI 2021).

Field: Video.
"""

from typing import TYPE_CHECKING

from projects.video_qa.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.video_qa.inference import Answerer
    from projects.video_qa.module import VideoQA

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[VideoQA]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.video_qa.evaluate import evaluate
    from projects.video_qa.folder import embed, export, load_export
    from projects.video_qa.own_clips import judge_clips
    from projects.video_qa.stages import plan, stages
    from projects.video_qa.tasks import tasks

    experiment: Experiment[VideoQA] = experiment_of(
        cfg, stages, evaluate, export, load_export, embed, plan
    )
    judges = {Layout.CLIPS: partial(judge_clips, cfg)}
    return replace(experiment, tasks=tasks(cfg, experiment), judges=judges)


def load(folder: "Path") -> "Answerer":
    """The answerer of an exported folder."""
    from projects.video_qa.inference import Answerer

    return Answerer.open(folder)
