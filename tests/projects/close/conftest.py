"""Configs, golden values, a tiny frozen encoder and one short run that several tests read."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.encoders.image_text.frozen_clip import FrozenClip
from projects.close.config import Config
from projects.close.module import CLOSE
from projects.close.stages import build_module
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/close.json").read_text(encoding="utf-8"))[
    "outputs"
]

config = configs_of(Config, "close")
# a causal model in place of the smoke config's T5, whose sizes are taken back
GPT2 = (
    "model.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 64, d_model:"
    " null, d_kv: null, d_ff: null, num_layers: null, num_decoder_layers: null, num_heads: null}"
)


def module_of(cfg: Config, clip: FrozenClip) -> CLOSE:
    """The module of a config without dropout, float32, from a fixed seed."""
    torch.manual_seed(0)
    cfg.model.dropout = 0.0
    return build_module(cfg, clip)


def sines(*shape: int) -> Tensor:
    """Distinct float32 values."""
    return (1 + 0.37 * torch.arange(torch.Size(shape).numel())).sin().view(shape)


@pytest.fixture(scope="session")
def clip() -> FrozenClip:
    """The bundled dual encoder."""
    return FrozenClip("bundled:dual-encoder")


@pytest.fixture
def run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("close")
