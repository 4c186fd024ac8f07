"""NV-Embed: bidirectional LLMs with latent attention as text embedders (Lee et al., ICLR 2025)."""

from typing import TYPE_CHECKING

from projects.nv_embed.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.nv_embed.encoder.instructed import InstructedEncoder
    from projects.nv_embed.module import NvEmbed

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[NvEmbed]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import retrieval_experiment
    from projects.nv_embed import tasks
    from projects.nv_embed.evaluate import evaluate, test_documents
    from projects.nv_embed.module import NvEmbed
    from projects.nv_embed.overlap import overlap
    from projects.nv_embed.stages import plan, recipe_of, stages
    from projects.nv_embed.synthesis import synthesize

    return retrieval_experiment(
        cfg,
        recipe_of(cfg),
        NvEmbed,
        stages=stages,
        evaluate=evaluate,
        plan=plan,
        texts=test_documents,
        tasks={"synthesize": synthesize, "overlap": overlap},
        model_tasks={"mine": tasks.mine, "mteb": tasks.mteb},
    )


def load(folder: "Path") -> "InstructedEncoder":
    """The encoder of an exported folder."""
    from projects.nv_embed.encoder.exported import load_instructed

    return load_instructed(folder)
