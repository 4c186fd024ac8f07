"""MCLRec: contrastive sequential recommendation with meta-learned augmenters (Qin et al., 2023).

Field: Recommendation.
"""

from typing import TYPE_CHECKING

from projects.mclrec.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.mclrec.module import MCLRec
    from projects.mclrec.recommender import Recommender

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[MCLRec]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.mclrec import own_log, tasks
    from projects.mclrec.evaluate import evaluate
    from projects.mclrec.stages import embed, export, load_export, plan, stages

    experiment = experiment_of(cfg, stages, evaluate, export, load_export, embed, plan)
    all_tasks = {
        "recommend": partial(tasks.recommend, cfg, experiment=experiment),
        "vectors": partial(tasks.vectors, cfg, experiment=experiment),
        "prepare": partial(tasks.prepare, cfg),
    }
    return replace(
        experiment, tasks=all_tasks, judges={Layout.LOG: partial(own_log.judge_log, cfg)}
    )


def load(folder: "Path") -> "Recommender":
    """The recommender of an exported folder."""
    from projects.mclrec.recommender import load_recommender

    return load_recommender(folder)
