"""Configs, small encoders and records for the tests of NV-Embed."""

import torch

from common.config import load
from common.encoders.text.language_models.instructed import InstructedEncoder
from projects.nv_embed.config import Config
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.stages import build_encoder

TEXTS = ["the cat sleeps", "two men are here", "a long walk in the old town", "no"]


def config(*overrides: str, name: str = "smoke") -> Config:
    """A config of the project with overrides."""
    return load(Config, "nv_embed", name, overrides)


def encoder(*overrides: str, seed: int = 0) -> InstructedEncoder:
    """The smoke config's encoder from a seed."""
    torch.manual_seed(seed)
    return build_encoder(config(*overrides).model)


def module(*overrides: str, in_batch: bool = False, seed: int = 0) -> NvEmbed:
    """The module of a stage of the smoke config."""
    return NvEmbed(config(*overrides), encoder(*overrides, seed=seed), in_batch=in_batch)
