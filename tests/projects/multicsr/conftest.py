"""Configs, golden inputs and small language models for the tests of MultiCSR."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from common.decoding.language_model import Continuation, LanguageModel
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.families.sentences.module import build_encoder
from projects.multicsr.config import Config
from projects.multicsr.module import MultiCSR
from projects.multicsr.stages import make_module
from tests.configs import configs_of

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/multicsr.json").read_text(encoding="utf-8")
)["cases"]
TEXTS = ["a man plays the guitar", "the cat sleeps", "two dogs run over a wide field", "it rains"]

config = configs_of(Config, "multicsr")


def module(*overrides: str) -> MultiCSR:
    """The module of the smoke config with overrides, equal for equal overrides."""
    cfg = config(*overrides)
    torch.manual_seed(0)
    return make_module(cfg, build_encoder(cfg.model))


def golden_views(case: dict) -> tuple[Tensor, Tensor]:
    """Student and mask model of a golden case, (B, 3, D) float64 each; the student wants
    gradients."""
    b = torch.arange(case["B"], dtype=torch.float64)[:, None, None]
    s = torch.arange(3, dtype=torch.float64)[None, :, None]
    j = torch.arange(case["d"], dtype=torch.float64)
    wave = torch.sin(1 + (b * 3 + s) * case["d"] + j)
    student = wave * (1 + 0.1 * s) + 0.3 * torch.cos(b + 0.5 * j)
    teacher = torch.cos(0.3 * j * (1 + torch.floor(b / 2))) + case["mix"] * wave
    return student.requires_grad_(), teacher


def tokenizer():
    """The built-in one, with an end of text."""
    actual = tiny_tokenizer(300)
    actual.eos_token = actual.sep_token
    return actual


def causal_model(seed: int = 0) -> LanguageModel:
    """A random GPT-2 whose greedy outputs differ by prompt."""
    torch.manual_seed(seed)
    sizes = GPT2Config(
        vocab_size=300,
        n_positions=96,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.6,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return LanguageModel(GPT2LMHeadModel(sizes), tokenizer(), "cpu")


def sequence_model(seed: int = 0) -> SequenceToSequence:
    """A random T5."""
    torch.manual_seed(seed)
    sizes = T5Config(
        vocab_size=300,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        eos_token_id=3,
        decoder_start_token_id=0,
        pad_token_id=0,
        initializer_factor=20.0,
    )
    return SequenceToSequence(T5ForConditionalGeneration(sizes), tokenizer(), "cpu")


def answering(text: str):
    """In the place of `continuations`: every prompt has this answer, cut at `stop` as a model's
    is."""

    def continuations(prompts, *args, stop=None, **options):
        return [
            Continuation(text if stop is None else text.partition(stop)[0], True, 3)
            for _ in prompts
        ]

    return continuations


@pytest.fixture(scope="session")
def models() -> dict[str, LanguageModel | SequenceToSequence]:
    """One of each kind."""
    return {"causal": causal_model(), "encoder-decoder": sequence_model()}


@pytest.fixture(scope="session")
def model_folders(models, tmp_path_factory) -> dict[str, str]:
    """The same in folders, as a config names them."""
    actual = {}
    for name, model in models.items():
        folder = tmp_path_factory.mktemp(name)
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        actual[name] = str(folder)
    return actual
