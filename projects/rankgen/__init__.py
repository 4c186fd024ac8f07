"""RankGen: ranking continuations by prefix and suffix vectors (Krishna et al. 2022)."""

from typing import TYPE_CHECKING

from projects.rankgen.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.rankgen.encoder import PrefixSuffixEncoder
    from projects.rankgen.module import RankGen

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[RankGen]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import one_stage, retrieval_experiment
    from projects.rankgen import tasks
    from projects.rankgen.data import build_data, eval_triples
    from projects.rankgen.evaluate import evaluate
    from projects.rankgen.module import RankGen
    from projects.rankgen.stages import plan, recipe_of

    recipe = recipe_of(cfg)
    return retrieval_experiment(
        cfg,
        recipe,
        RankGen,
        stages=lambda cfg: one_stage(
            recipe, lambda encoder: RankGen(cfg, encoder), lambda encoder: build_data(cfg, encoder)
        ),
        evaluate=evaluate,
        plan=plan,
        texts=lambda cfg: [triple.gold for triple in eval_triples(cfg).rows],
        tasks=tasks.TASKS,
        model_tasks={
            "decode": lambda cfg, workspace, experiment: tasks.decode(cfg, experiment, workspace)
        },
    )


def load(folder: "Path") -> "PrefixSuffixEncoder":
    """The encoder of an exported folder."""
    from projects.rankgen.export import load_encoder

    return load_encoder(folder)
