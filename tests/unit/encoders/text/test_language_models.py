"""Causal language models: their final logits, adapters of another model, exported encoders."""

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXTokenizer,
    MixtralConfig,
)

from common.config import UserError
from common.encoders.modes import evaluated
from common.encoders.text import tower
from common.encoders.text.experts import expert_modules, quantise_experts
from common.encoders.text.language_models.causal import add_lora
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_transformer
from common.encoders.text.tuned.prefix import cache_argument
from projects.cosmo.visual_language.injected import InjectedLM
from projects.lol.lora import load_lora, save_lora
from projects.nv_embed.encoder.causal import append_eos
from projects.nv_embed.encoder.exported import load_instructed, save_instructed
from projects.nv_embed.encoder.instructed import InstructedEncoder
from projects.nv_embed.encoder.latent_attention import TokenPooler
from projects.promptreps.lexical.prompted import PromptedModel

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN = {
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 0.5, "head_dim": 8, "layer_types": ["full_attention"]},
    "granite": {"logits_scaling": 3.0},
}
IDS = torch.tensor([[1, 5, 9, 58, 3]])


def language_model(kind="llama", **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, "initializer_range": 0.3, **options})
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", OWN)
def test_logits_of_states_are_those_of_the_model(kind):
    model = language_model(kind, **OWN[kind])
    prompted = PromptedModel(model, tiny_tokenizer(300))
    with torch.no_grad():
        states = prompted.all_states(IDS, torch.ones_like(IDS))
        torch.testing.assert_close(prompted.logits(states), model(IDS).logits)


@pytest.mark.parametrize("kind", OWN)
def test_trained_rows_have_the_logits_that_frozen_ones_would_have(kind):
    model = language_model(kind, tie_word_embeddings=True, **OWN[kind])
    want = model(IDS).logits.detach()
    whole = InjectedLM(model, [], [], media_token=58, first_row=57, trained_rows="new")
    torch.testing.assert_close(whole(IDS, torch.ones_like(IDS)).logits.detach(), want)


def test_answers_pass_the_cache_under_the_library_s_name_for_it():
    """Each step took it under a deprecated one, with a warning."""
    model, names = language_model(), []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: names.append(kwargs.keys()), with_kwargs=True
    )
    PromptedModel(model, tiny_tokenizer(300)).answer([[1, 5, 9], [7]], 3, "\0")
    assert len(names) == 3
    assert all(cache_argument(model.base_model) in own for own in names)


@pytest.mark.parametrize("other", [{"hidden_size": 32}, {"kind": "gpt_neox"}])
def test_adapters_of_another_model_are_refused(other, tmp_path):
    model = language_model()
    add_lora(model, rank=2, alpha=4, targets=["q_proj"])
    save_lora(model, tmp_path, "mine")
    load_lora(language_model(), tmp_path)
    with pytest.raises(UserError, match="does not fit this model"):
        load_lora(language_model(**other), tmp_path)


def test_an_exported_tokenizer_ends_texts_whatever_its_class(tmp_path):
    """GPT-NeoX's restores a template without an end when it is read."""
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2, "\u0120": 3, "<|padding|>": 4}
    tokenizer = GPTNeoXTokenizer(vocab=vocab, merges=[])
    append_eos(tokenizer)
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 8})
    model = AutoModel.from_config(config).eval()
    model.config.is_causal = True
    encoder = InstructedEncoder(model, TokenPooler("last", 16), tokenizer, max_length=16).eval()
    expected = encoder.encode(["ab", "b"])
    save_instructed(encoder, tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("ab")["input_ids"] == tokenizer("ab")["input_ids"]
    )
    torch.testing.assert_close(load_instructed(tmp_path).encode(["ab", "b"]), expected)
    GPTNeoXTokenizer(vocab=vocab, merges=[]).save_pretrained(tmp_path)  # as written before
    torch.testing.assert_close(load_instructed(tmp_path).encode(["ab", "b"]), expected)


def test_a_model_spread_over_devices_stays_where_it_is():
    """The CPU is the only device here, for which the library keeps no map: the test sets one."""
    pytest.importorskip("accelerate")
    options = {"auto_class": AutoModelForCausalLM}
    plain = load_transformer("bundled:causal-lm", **options).eval()
    spread = load_transformer("bundled:causal-lm", spread=True, **options)
    spread.hf_device_map, spread.to = {"": "cpu"}, None  # no one moves it
    ids = torch.arange(5)[None] + 5
    with evaluated(spread, "auto"):
        assert not spread.training
        actual = spread(ids).logits
    torch.testing.assert_close(actual, plain(ids).logits.detach())


def test_a_missing_library_of_large_models_is_named(monkeypatch):
    monkeypatch.setattr(tower, "find_spec", lambda name: None)
    for option, package in (("spread", "accelerate"), ("four_bit", "bitsandbytes")):
        with pytest.raises(UserError, match=rf"needs '{package}' of the extra 'large'"):
            load_transformer("bundled:causal-lm", **{option: True})


def test_four_bits_are_asked_of_the_library(monkeypatch):
    given = {}

    class Library:
        @staticmethod
        def from_pretrained(*_, **options):
            given.update(options)
            raise UserError("stop here")

    monkeypatch.setattr(tower, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="stop here"):
        load_transformer(
            "bundled:causal-lm", auto_class=Library, dtype=torch.bfloat16, four_bit=True
        )
    config = given["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert "device_map" not in given


def test_experts_of_a_mixture_are_quantised_too(monkeypatch):
    """bitsandbytes replaces linear layers alone; a stand-in rounds weights to halves."""

    class Halves(torch.nn.Module):
        def forward(self, weight):
            return weight.float() / 2

    def replace(module, name, quant_type):
        assert quant_type == "nf4"
        stored = torch.nn.Parameter((module.get_parameter(name) * 2).round().char(), False)
        setattr(module, name, stored)
        torch.nn.utils.parametrize.register_parametrization(module, name, Halves(), unsafe=True)

    library = SimpleNamespace(replace_parameter_4bit=replace)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.parametrize", library)
    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=20,
        num_local_experts=4,
    )
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    for module, names in expert_modules(plain):
        for name in names:
            parameter = module.get_parameter(name)
            parameter.data = (parameter.data * 50).round() / 2
    model = copy.deepcopy(plain)
    quantise_experts(model, torch.device("cpu"))
    assert [p.dtype for p in model.parameters() if p.ndim == 3] == [torch.int8] * 4

    def gradient(network):
        states = torch.ones(1, 5, 16, requires_grad=True)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            logits = network(inputs_embeds=states, use_cache=False).logits
        logits.square().sum().backward()
        return logits, states.grad, kept

    logits, grad, _ = gradient(model)
    expected, expected_grad, _ = gradient(plain)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(grad, expected_grad)
    kept = gradient(model)[2]
    assert not [t for t in kept if t.ndim == 3 and len(t) == config.num_local_experts]
