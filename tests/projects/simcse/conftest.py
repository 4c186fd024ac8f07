"""Configs, golden inputs and small encoders for the tests of SimCSE."""

import json
from pathlib import Path

import torch

from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import build_encoder
from projects.simcse.config import Config
from projects.simcse.module import SimCSE
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/simcse.json").read_text(encoding="utf-8"))
TEXTS = ["a man plays the guitar", "the cat sleeps", "two dogs run over a field", "it rains"]

config = configs_of(Config, "simcse")


def encoder(cfg: Config, seed: int = 0) -> SentenceEncoder:
    """The config's encoder from a seed."""
    torch.manual_seed(seed)
    return build_encoder(cfg.model)


def module(*overrides: str, seed: int = 0) -> SimCSE:
    """The module of the smoke config with overrides."""
    cfg = config(*overrides)
    return SimCSE(cfg, encoder(cfg, seed))
