"""1-to-K: contrast of an image with all its translations at once (Nie et al., KDD 2024).

Field: Images and texts.
"""

from typing import TYPE_CHECKING

from projects.one_to_k.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.one_to_k.export import Retriever
    from projects.one_to_k.module import OneToK

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[OneToK]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.one_to_k import stages, tasks
    from projects.one_to_k.evaluate import evaluate
    from projects.one_to_k.own_captions import judge_captions

    experiment: Experiment[OneToK] = experiment_of(
        cfg,
        stages.stages,
        evaluate,
        stages.export,
        stages.load_export,
        stages.embed,
        stages.plan,
        {"translate": tasks.translate},
    )
    judge = partial(judge_captions, cfg)
    return replace(experiment, judges={Layout.MULTILINGUAL: judge, Layout.CAPTIONS: judge})


def load(folder: "Path") -> "Retriever":
    """Both towers of an exported folder."""
    from projects.one_to_k.export import Retriever

    return Retriever.load(folder)
