"""Configs, golden values and tiny models: an original, its amateurs, and decoders of any method."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModelForCausalLM

from common.decoding.language_model import LanguageModel
from common.encoders.text.language_models.causal import add_lora
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.lol.config import Config, MethodConfig
from projects.lol.decoder import Decoder, Models
from projects.lol.prompts import Prompts
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/lol.json").read_text(encoding="utf-8"))[
    "outputs"
]
QUESTION = "what is a state"
ANSWERS = ["it is a good man", "little", "the people of this world are men"]
GREEDY = {"amateur": "none", "lambda_final": 0.0, "omega": 0.0, "refocus": "none"}
ICD = {"lambda_final": 1.0, "beta": 1.0, "omega": 0.0, "refocus": "none"}
LAYERS = {"layers": "list", "layer_list": [1, 2, 3]}

config = configs_of(Config, "lol")


def tiny(seed: int, layers: int = 4):
    """A random Llama in float64 over the built-in tokenizer's words."""
    torch.manual_seed(seed)
    settings = AutoConfig.for_model(
        "llama",
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(settings).double().eval()


def tokens():
    """The built-in tokenizer without a token at the end, as those of decoders are."""
    tokenizer = tiny_tokenizer(400)
    start = ("[CLS]", tokenizer.cls_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[start]
    )
    return tokenizer


def with_adapters(model):
    """LoRA whose second factor is not zero, so that the amateur differs."""
    add_lora(model, rank=2, alpha=4.0, targets=["q_proj", "v_proj"])
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model.double().eval()


@pytest.fixture(scope="session")
def models() -> Models:
    """An original, another model as its amateur, and a smaller one."""
    return Models(LanguageModel(tiny(1), tokens(), "cpu"), tiny(2), tiny(3, 2))


@pytest.fixture(scope="session")
def lora_models() -> Models:
    """The same original with adapters as its amateur."""
    lm = LanguageModel(with_adapters(tiny(1)), tokens(), "cpu")
    return Models(lm, lora=True)


def decoder_of(models: Models, *, batch_size: int = 64, **method) -> Decoder:
    """A decoder by a method's fields; prompts are short."""
    cfg = config(
        "prompt.instruction=say", "prompt.truthful=the good", "prompt.fabricate=the little"
    )
    cfg.prompt.question = "a question: {question} :"
    prompts = Prompts(cfg, models.lm.tokenizer)
    return Decoder(models, MethodConfig(**method), prompts, batch_size)


def same_twice(models: Models) -> Models:
    """theta' = theta."""
    return replace(models, amateur=copy.deepcopy(models.lm.model))


def plain(model, prompt, answer, layer=None):
    """Logits (T, V) of an answer's tokens without padding, cache or batch; or states of a layer."""
    out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
    source = out.logits if layer is None else out.hidden_states[layer]
    return source[0, len(prompt) - 1 : -1]
