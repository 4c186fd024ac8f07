"""VacancySBERT: job titles matched with the skills of their adverts (Bocharova et al. 2023)."""

from typing import TYPE_CHECKING

from projects.vacancysbert.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.vacancysbert.encoder import TitleSkillEncoder
    from projects.vacancysbert.module import VacancySBERT

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[VacancySBERT]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace

    from common.families.retrieval.experiment import retrieval_experiment
    from projects.vacancysbert import stages, tasks
    from projects.vacancysbert.data import load_data
    from projects.vacancysbert.evaluate import evaluate
    from projects.vacancysbert.module import VacancySBERT

    experiment = retrieval_experiment(
        cfg,
        stages.recipe_of(cfg),
        VacancySBERT,
        stages=stages.stages,
        evaluate=evaluate,
        plan=stages.plan,
        texts=lambda cfg: load_data(cfg).test.candidates,
        tasks=tasks.TASKS,
        model_tasks={"normalise": tasks.normalise},
    )
    return replace(experiment, embed=stages.embed)


def load(folder: "Path") -> "SentenceEncoder | TitleSkillEncoder":
    """The sentence encoder of an exported folder, or the encoder with a map for each side."""
    from projects.vacancysbert.exported import load_exported

    return load_exported(folder)
