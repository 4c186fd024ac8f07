"""The arena of images with texts: every image and its caption under a contestant's loss."""

from typing import TYPE_CHECKING

from arena.image_text.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from arena.image_text.module import Contest
    from common.data.image_text.captions import TextPolicy
    from common.data.module import ContrastiveData
    from common.data.text.tokenizers import ClipTokenizer
    from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
    from common.engine.experiment import Experiment
    from common.families.image_text.module import Encoder

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Contest]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace

    from arena.image_text.evaluate import evaluate
    from arena.image_text.module import Contest
    from common.families.image_text.data import image_text_data
    from common.families.image_text.experiment import image_text_experiment

    def make_module(encoder: "Encoder | None" = None) -> Contest:
        return Contest(cfg, encoder)

    def make_data(tokenizer: "ClipTokenizer") -> "ContrastiveData":
        count = cfg.data.num_texts
        policy: TextPolicy = "multi" if count > 1 else "random"
        return image_text_data(cfg, tokenizer, text_policy=policy, num_texts=count)

    family = image_text_experiment(cfg, make_module, make_data, num_texts=cfg.data.num_texts)
    return replace(
        family, evaluate=lambda module, workspace: evaluate(cfg, module, workspace, make_module)
    )


def load(folder: "Path") -> "OpenClipDualEncoder":
    """Both towers of an exported folder; open_clip opens it as well."""
    from common.export.open_clip import load_open_clip

    return load_open_clip(folder)
