"""Configs, tiny models and batches for the tests of RankGen."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common.decoding.language_model import LanguageModel
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.rankgen.config import Config
from projects.rankgen.encoder import PrefixSuffixEncoder, build_encoder
from tests.configs import configs_of

T5 = {
    "model_type": "t5",
    "vocab_size": 400,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}

config = configs_of(Config, "rankgen")


def encoder(
    prefix_length: int = 48, suffix_length: int = 32, **changes: object
) -> PrefixSuffixEncoder:
    """A small random T5 encoder."""
    torch.manual_seed(0)
    lengths = {"prefix_length": prefix_length, "suffix_length": suffix_length}
    return build_encoder("random", config={**T5, **changes}, **lengths)


def language_model(eos: str | None = None) -> LanguageModel:
    """A small random causal LM with the built-in tokenizer."""
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer(400)
    tokenizer.eos_token = eos
    settings = AutoConfig.for_model(
        "gpt2",
        vocab_size=400,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=96,
        bos_token_id=2,
        eos_token_id=None,
        initializer_range=0.3,
    )
    return LanguageModel(AutoModelForCausalLM.from_config(settings), tokenizer, "cpu")


def save_language_model(folder) -> str:
    """Folder of `language_model`, for configs."""
    lm = language_model()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)
