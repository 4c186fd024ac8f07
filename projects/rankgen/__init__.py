"""RankGen: ranking continuations of language models by prefix and suffix vectors (Krishna et al., EMNLP 2022)."""

from typing import TYPE_CHECKING

from projects.rankgen.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from common.engine.experiment import Experiment
    from common.engine.module import ContrastiveModule
    from common.engine.workspace import Workspace

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment":
    """The experiment of a config; heavy imports happen here."""
    from common.engine.experiment import Experiment
    from projects.rankgen import tasks
    from projects.rankgen.data import PROBES
    from projects.rankgen.evaluate import evaluate
    from projects.rankgen.export import load_encoder, save_encoder
    from projects.rankgen.generate import write_bundled, write_generations, write_windows
    from projects.rankgen.module import RankGen
    from projects.rankgen.stages import plan, stages

    def rankgen(module: "nn.Module") -> RankGen:
        assert isinstance(module, RankGen)
        return module

    def export(module: "ContrastiveModule", folder: "Path") -> None:
        save_encoder(rankgen(module).encoder, folder)

    def embed(module: "ContrastiveModule") -> "dict[str, Tensor]":
        encode = rankgen(module).encoder.encode
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
        lambda module, workspace: evaluate(cfg, rankgen(module), workspace),
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
