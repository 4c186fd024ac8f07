"""Configs, golden values, tiny language models and networks, and one short run that several tests
read.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from projects.cosmo.batches import CosmoBatch
from projects.cosmo.config import Config
from projects.cosmo.module import COSMO
from projects.cosmo.network import CosmoNetwork
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/cosmo.json").read_text(encoding="utf-8"))[
    "outputs"
]
WIDTH, MEDIA, VOCAB = 12, 39, 40  # of pictures; id of <visual>; rows
KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 16,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 4, "n_head": 2},
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    },
}

config = configs_of(Config, "cosmo")


def language(kind: str = "llama") -> Any:
    """A tiny random causal model, the same at every call."""
    torch.manual_seed(3)
    fields = {
        **KINDS[kind],
        "vocab_size": VOCAB,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    settings = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return AutoModelForCausalLM.from_config(settings).eval()


def network_of(*overrides: str, kind: str = "llama", open_gates: float = 0.0) -> CosmoNetwork:
    """A network on a tiny language model; its gates may be opened."""
    model = language(kind)
    torch.manual_seed(5)
    network = CosmoNetwork(config(*overrides), model, WIDTH, VOCAB - 3, MEDIA).eval()
    for block in network.language.blocks:
        block.attn_gate.data.fill_(open_gates)
        block.ff_gate.data.fill_(open_gates)
    return network


def module_of(*overrides: str, open_gates: float = 0.3) -> COSMO:
    """A module on a tiny language model, without tokenizer or tower."""
    network = network_of(*overrides, open_gates=open_gates)
    return COSMO(config(*overrides), network, None)


def sines(*shape: int, phase: float = 1.0) -> Tensor:
    """sin(phase + k) over the flattened index, in the default dtype."""
    return (
        (phase + torch.arange(torch.Size(shape).numel(), dtype=torch.get_default_dtype()))
        .sin()
        .view(shape)
    )


def batch_of(kind: str = "image_text", rows: int = 4, places: int = 1) -> CosmoBatch:
    """Rows that begin with a picture, of different length."""
    ids = torch.tensor([[0, MEDIA, 5 + i % 3, 6, 7 + i, 2] for i in range(rows)])
    mask = torch.ones_like(ids)
    mask[1::2, -1] = 0
    labels = ids.masked_fill((mask == 0) | (ids == MEDIA), -100)
    labels[:, 0] = -100
    return {
        "kind": kind,
        "patches": sines(rows, places, 1, 3, WIDTH),
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "caption_ids": torch.arange(rows),
        "ids": torch.arange(rows),
    }


@pytest.fixture
def run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("cosmo")
