"""PromptReps: a language model's next word as dense and sparse vector (Zhuang et al. 2024)."""

from typing import TYPE_CHECKING

from projects.promptreps.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.promptreps.encoder import PromptRepsEncoder
    from projects.promptreps.module import PromptReps

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[PromptReps]":
    """The experiment of a config; heavy imports happen here."""
    from functools import partial

    from common.engine.experiment import Experiment
    from projects.promptreps import evaluate, retrieve, stages, tasks
    from projects.promptreps.export import load_encoder, save_encoder
    from projects.promptreps.module import PromptReps

    experiment = Experiment(
        partial(stages.stages, cfg),
        lambda module, workspace: evaluate.evaluate(cfg, module.encoder, workspace),
        lambda module, folder: save_encoder(module.encoder, folder),
        lambda folder: PromptReps(cfg, load_encoder(folder, cfg)),
        lambda module: stages.embed(module.encoder),
        partial(stages.plan, cfg),
        {
            "evaluate": partial(tasks.evaluate_zero_shot, cfg),
            "search": lambda workspace: tasks.search(cfg, workspace, experiment),
            "encode": lambda workspace: tasks.encode(cfg, workspace, experiment),
            "retrieve": partial(retrieve.retrieve, cfg),
        },
        assist=lambda module: evaluate.encode_large_sets(cfg, module.encoder),
    )
    return experiment


def load(folder: "Path") -> "PromptRepsEncoder":
    """The encoder of an exported folder."""
    from projects.promptreps.export import load_encoder

    return load_encoder(folder)
