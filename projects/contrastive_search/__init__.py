"""Contrastive search and SimCTG: open-ended text without repetition (Su and Collier, 2023)."""

from typing import TYPE_CHECKING

from projects.contrastive_search.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.decoding.language_model import LanguageModel
    from common.engine.experiment import Experiment
    from projects.contrastive_search.module import SimCTG

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[SimCTG]":
    """The experiment of a config; heavy imports happen here."""
    from functools import partial

    from common.engine.experiment import Experiment
    from projects.contrastive_search import human, runners, stages, tasks
    from projects.contrastive_search.evaluate import evaluate

    experiment = Experiment(
        partial(stages.stages, cfg),
        partial(evaluate, cfg),
        stages.save,
        partial(stages.load, cfg),
        stages.embed,
        partial(stages.plan, cfg),
        {
            "decode": lambda workspace: tasks.decode(cfg, workspace, experiment),
            "evaluate": partial(tasks.evaluate_off_the_shelf, cfg),
            "isotropy": partial(tasks.isotropy_report, cfg),
            "open_ended": partial(tasks.evaluate_off_the_shelf, cfg),
            "summarisation": partial(runners.summarisation, cfg),
            "translation": partial(runners.translation, cfg),
            "code": partial(runners.code, cfg),
            "rating_form": partial(human.rating_form, cfg),
            "ratings": partial(human.ratings, cfg),
        },
    )
    return experiment


def load(folder: "Path") -> "LanguageModel":
    """The language model of an exported folder."""
    from common.decoding.language_model import LanguageModel

    return LanguageModel.from_pretrained(str(folder), device="cpu")
