"""NV-Embed: bidirectional LLMs with latent attention as text embedders (Lee et al., ICLR 2025)."""

from typing import TYPE_CHECKING

from projects.nv_embed.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment
    from common.engine.workspace import Workspace
    from projects.nv_embed.module import NvEmbed

__all__ = ["Config", "build"]

PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]


def build(cfg: Config) -> "Experiment[NvEmbed]":
    """The experiment of a config; heavy imports happen here."""
    from common.engine.experiment import Experiment
    from common.export.instructed import save_instructed
    from projects.nv_embed.evaluate import evaluate
    from projects.nv_embed.module import NvEmbed
    from projects.nv_embed.stages import load_encoder, plan, stages
    from projects.nv_embed.synthesis import synthesize
    from projects.nv_embed.tasks import mine, mteb

    def export(module: NvEmbed, folder: "Path") -> None:
        save_instructed(module.encoder, folder)

    def embed(module: NvEmbed) -> "dict[str, Tensor]":
        encoder = module.encoder
        return {
            "documents": encoder.encode(PROBES),
            "queries": encoder.encode(PROBES, instruction="Find a title"),
        }

    def mine_task(workspace: "Workspace") -> None:
        mine(cfg, workspace, experiment)

    def mteb_task(workspace: "Workspace") -> None:
        mteb(cfg, workspace, experiment)

    def synthesis_task(workspace: "Workspace") -> None:
        synthesize(cfg, workspace)

    experiment = Experiment(
        stages=lambda: stages(cfg),
        evaluate=lambda module, workspace: evaluate(cfg, module, workspace),
        export=export,
        load_export=lambda folder: NvEmbed(cfg, load_encoder(folder, cfg.model)),
        embed=embed,
        plan=lambda: plan(cfg),
        tasks={"mine": mine_task, "mteb": mteb_task, "synthesize": synthesis_task},
    )
    return experiment
