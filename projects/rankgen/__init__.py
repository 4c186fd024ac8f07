"""RankGen: ranking continuations of language models by prefix and suffix vectors (Krishna et al., EMNLP 2022)."""

from typing import TYPE_CHECKING

from projects.rankgen.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment
    from common.engine.workspace import Workspace
    from projects.rankgen.module import RankGen

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[RankGen]":
    """The experiment of a config; heavy imports happen here."""
    from common.engine.experiment import Experiment
    from projects.rankgen import tasks
    from projects.rankgen.continuations import write_bundled, write_generations, write_windows
    from projects.rankgen.data import PROBES
    from projects.rankgen.evaluate import evaluate
    from projects.rankgen.export import load_encoder, save_encoder
    from projects.rankgen.module import RankGen
    from projects.rankgen.stages import plan, stages

    def export(module: RankGen, folder: "Path") -> None:
        save_encoder(module.encoder, folder)

    def embed(module: RankGen) -> "dict[str, Tensor]":
        encode = module.encoder.encode
        return {"prefix": encode(PROBES, "prefix"), "suffix": encode(PROBES, "suffix")}

    def decode(workspace: "Workspace") -> None:
        tasks.decode(cfg, experiment, workspace)

    def windows(workspace: "Workspace") -> None:
        write_windows(cfg, workspace)

    def generate(workspace: "Workspace") -> None:
        write_generations(cfg, workspace)

    def bundle(workspace: "Workspace") -> None:
        write_bundled(cfg, workspace)

    def preference(workspace: "Workspace") -> None:
        tasks.preference(cfg, workspace)

    experiment = Experiment(
        lambda: stages(cfg),
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        lambda folder: RankGen(cfg, load_encoder(folder)),
        embed,
        lambda: plan(cfg),
        {
            "windows": windows,
            "generate": generate,
            "bundle": bundle,
            "decode": decode,
            "preference": preference,
        },
    )
    return experiment
