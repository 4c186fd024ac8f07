"""RTD: text triplets teach a CLIP text tower composed image retrieval (Byun et al., ICCV 2025)."""

from typing import TYPE_CHECKING

from projects.rtd.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.rtd.inference import ComposedSearch
    from projects.rtd.module import ComposedModule

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[ComposedModule]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.rtd import export, tasks
    from projects.rtd.evaluate import evaluate
    from projects.rtd.own_queries import judge_queries
    from projects.rtd.stages import plan, stages

    experiment = experiment_of(
        cfg, stages, evaluate, export.export, export.load_export, export.embed, plan, tasks.TASKS
    )
    return replace(experiment, judges={Layout.COMPOSED: partial(judge_queries, cfg)})


def load(folder: "Path") -> "ComposedSearch":
    """Both towers and phi of an exported folder, for search with a picture and a sentence."""
    from projects.rtd.inference import ComposedSearch

    return ComposedSearch(folder)
