"""LaCLIP: CLIP training with language rewrites (Fan et al., NeurIPS 2023)."""

from typing import TYPE_CHECKING

from projects.laclip.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
    from common.engine.experiment import Experiment
    from common.families.image_text.module import Encoder
    from projects.laclip.module import LaCLIP

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[LaCLIP]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.families.image_text.experiment import image_text_experiment
    from projects.laclip import tasks
    from projects.laclip.data import REWRITES_FROM, build_data
    from projects.laclip.evaluate import evaluate
    from projects.laclip.module import LaCLIP

    def make_module(encoder: "Encoder | None" = None) -> LaCLIP:
        return LaCLIP(cfg, encoder)

    family = image_text_experiment(
        cfg,
        make_module,
        lambda tokenizer: build_data(cfg, tokenizer),
        tasks={"rewrite": partial(tasks.rewrite, cfg)},
        num_texts=cfg.method.num_texts,
        texts_from=REWRITES_FROM,
    )
    return replace(
        family, evaluate=lambda module, workspace: evaluate(cfg, module, workspace, make_module)
    )


def load(folder: "Path") -> "OpenClipDualEncoder":
    """Both towers of an exported folder; open_clip opens it as well."""
    from common.export.open_clip import load_open_clip

    return load_open_clip(folder)
