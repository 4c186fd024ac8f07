"""Configs, small encoders and records for the tests of NV-Embed."""

from copy import deepcopy
from functools import cache

import torch

from projects.nv_embed.config import Config
from projects.nv_embed.data.records import EmbeddingTask
from projects.nv_embed.data.training_sets import stage_data, training_tasks
from projects.nv_embed.encoder.instructed import InstructedEncoder
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.stages import build_encoder
from tests.configs import configs_of

# every pooling, and both masks where it makes a difference to how states are pooled
POOLINGS = [
    ("last", True),
    ("mean", False),
    ("latent", False),
    ("latent", True),
    ("self_attention", False),
]
TEXTS = ["the cat sleeps", "two men are here", "a long walk in the old town", "no"]

config = configs_of(Config, "nv_embed")


@cache
def tasks(*overrides: str) -> tuple[EmbeddingTask, ...]:
    """The training sets of the smoke config, whose negatives are mined once for all tests."""
    return tuple(training_tasks(config(*overrides)))


@cache
def batch_of(count: int) -> dict:
    """The first examples of the smoke config; what is trained on them does not change them."""
    batch = stage_data(config(), encoder(), list(tasks())).train_set[[(i, 0) for i in range(count)]]
    assert isinstance(batch, dict)
    return batch


def encoder(*overrides: str, seed: int = 0) -> InstructedEncoder:
    """The smoke config's encoder from a seed: a copy of one that is built once; the tokenizer is
    shared.
    """
    made = _built(frozenset(overrides), seed)
    torch.manual_seed(seed)
    return deepcopy(made, {id(made.tokenizer): made.tokenizer})


@cache
def _built(overrides: frozenset[str], seed: int) -> InstructedEncoder:
    torch.manual_seed(seed)
    return build_encoder(config(*sorted(overrides)).model)


def module(*overrides: str, in_batch: bool = False, seed: int = 0) -> NvEmbed:
    """The module of a stage of the smoke config."""
    return NvEmbed(config(*overrides), encoder(*overrides, seed=seed), in_batch=in_batch)
