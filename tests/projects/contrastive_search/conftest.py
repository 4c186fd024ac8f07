"""Configs, golden inputs, the toy language model of the golden file and a tiny GPT-2."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from common.decoding.language_model import LanguageModel
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.contrastive_search.config import Config
from projects.contrastive_search.module import SimCTG
from projects.contrastive_search.stages import build_module
from tests.configs import configs_of

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/contrastive_search.json").read_text(encoding="utf-8")
)["outputs"]

config = configs_of(Config, "contrastive_search")


def sines(*shape: int) -> Tensor:
    """The golden file's states, float64."""
    count = torch.Size(shape).numel()
    return (1 + 0.37 * torch.arange(count, dtype=torch.float64)).sin().view(shape)


class ToyLM(nn.Module):
    """The golden file's language model: a state is a function of token and position alone."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **_):
        token, place = input_ids[..., None].double(), position_ids[..., None].double()
        j, v = torch.arange(6.0).double(), torch.arange(11.0).double()
        states = (1 + 0.7 * token + 0.3 * place + j).sin()
        logits = states @ (0.5 * v + 1.3 * j[:, None]).cos()
        return SimpleNamespace(hidden_states=(states,), logits=logits)


def tiny_lm(eos: str | None = None) -> LanguageModel:
    """A random GPT-2 in float64 with the built-in tokenizer."""
    torch.manual_seed(1)
    tokenizer = tiny_tokenizer(400)
    tokenizer.eos_token = eos
    settings = AutoConfig.for_model(
        "gpt2",
        vocab_size=400,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=160,
        bos_token_id=2,
        eos_token_id=None,
        initializer_range=0.4,
    )
    return LanguageModel(AutoModelForCausalLM.from_config(settings).double(), tokenizer, "cpu")


def module_of(*overrides: str) -> SimCTG:
    """The smoke config's module without dropout, float64."""
    torch.manual_seed(0)
    off = {f"model.config.{name}=0.0" for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    return build_module(config(*sorted(off), *overrides)).double()


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory) -> str:
    """Folder of a tiny language model, for configs."""
    folder = tmp_path_factory.mktemp("lm")
    lm = tiny_lm()
    lm.model.float().save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)
