"""Improved baselines for vision-language pre-training (Fini et al., TMLR 2023)."""

from typing import TYPE_CHECKING

from projects.clip_baselines.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan
    from common.families.image_text.module import Encoder
    from projects.clip_baselines.heads_file import ZeroShot
    from projects.clip_baselines.module import Rocket

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Rocket]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.families.image_text.experiment import PROBES, image_text_experiment
    from projects.clip_baselines import heads_file
    from projects.clip_baselines.data import TEXTS_FROM, build_data, wordnet_requirement
    from projects.clip_baselines.evaluate import evaluate
    from projects.clip_baselines.index import write_index
    from projects.clip_baselines.module import Rocket

    def make_module(encoder: "Encoder | None" = None) -> Rocket:
        return Rocket(cfg, encoder)

    family = image_text_experiment(
        cfg,
        make_module,
        lambda tokenizer: build_data(cfg, tokenizer),
        texts_from=TEXTS_FROM,
        tasks={"index": partial(write_index, cfg)},
        num_texts=1 + cfg.data.num_augs,
        num_images=1 + cfg.data.num_augs,
    )

    def export(module: Rocket, folder: "Path") -> None:
        family.export(module, folder)
        heads_file.save(module, folder, cfg.eval.ensemble)

    def load_export(folder: "Path") -> Rocket:
        return heads_file.load(family.load_export(folder), folder)

    def embed(module: Rocket) -> "dict[str, Tensor]":
        local = {f"text_{key}": x.cpu() for key, x in module.embed_texts(PROBES).items()}
        return family.embed(module) | local

    def plan() -> "Plan[Rocket]":
        usual = family.plan()
        return replace(usual, requirements=(*usual.requirements, *wordnet_requirement(cfg)))

    return replace(
        family,
        plan=plan,
        evaluate=lambda module, workspace: evaluate(cfg, module, workspace, make_module),
        export=export,
        load_export=load_export,
        embed=embed,
    )


def load(folder: "Path") -> "ZeroShot":
    """Both heads of an exported folder, for classification by text."""
    from projects.clip_baselines.heads_file import ZeroShot

    return ZeroShot(folder)
