"""Configs, golden inputs and a tiny language model for the tests of PromptReps."""

import json
from pathlib import Path

import torch

from projects.promptreps.config import Config
from projects.promptreps.encoder import build_encoder
from projects.promptreps.module import PromptReps
from tests.configs import configs_of

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/promptreps.json").read_text(encoding="utf-8")
)
TEXTS = ["the state of the world", "men at work", "a good house", "people made these years"]

config = configs_of(Config, "promptreps")


def encoder_of(*overrides: str):
    """The smoke config's encoder before training, equal for equal overrides."""
    torch.manual_seed(0)
    return build_encoder(config("method.supervised=false", *overrides).model).eval()


def module_of(*overrides: str) -> PromptReps:
    """A module of supervised training, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return PromptReps(cfg, build_encoder(cfg.model), lora=True).train()
