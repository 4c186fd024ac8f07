"""LOL: contrasts of two layers against a hallucinating amateur (Chen et al., 2024)."""

from typing import TYPE_CHECKING

from projects.lol.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.lol.decoder import Decoder
    from projects.lol.module import LOL

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[LOL]":
    """The experiment of a config; heavy imports happen here."""
    from functools import partial

    from common.engine.experiment import Experiment
    from projects.lol import stages, tasks
    from projects.lol.evaluate import evaluate

    experiment = Experiment(
        partial(stages.stages, cfg),
        partial(evaluate, cfg),
        partial(stages.save, cfg),
        partial(stages.load, cfg),
        stages.embed,
        partial(stages.plan, cfg),
        {
            "generate": lambda workspace: tasks.generate(cfg, workspace, experiment),
            "strategyqa": lambda workspace: tasks.strategyqa(cfg, workspace, experiment),
            "gsm8k": lambda workspace: tasks.gsm8k(cfg, workspace, experiment),
            "score": partial(tasks.score_off_the_shelf, cfg),
            "hallucinate": partial(tasks.hallucinate, cfg),
        },
    )
    return experiment


def load(folder: "Path") -> "Decoder":
    """Original and amateur of an exported folder, with the settings of their run."""
    from projects.lol.exported import load_decoder

    return load_decoder(folder)
