"""Configs, modules and one finished run for the tests of DefSent+."""

import pytest
import torch
from torch import Tensor

from common.engine.run import train
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import load_dictionary
from projects.defsent_plus.module import DefSentPlus
from projects.defsent_plus.stages import round_module
from tests.configs import configs_of

TEMPLATE = '"This sentence : \\"{text}\\" means [MASK] ."'
ROBERTA = (
    "{model_type: roberta, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4,"
    " intermediate_size: 64, max_position_embeddings: 64, vocab_size: 256, pad_token_id: 0}"
)
PLAIN = ("rounds=1", "entry.ica.enabled=false")
DEFSENT = (*PLAIN, "entry.targets=lm_head", "data.single_piece=true", "data.held_out=0")

config = configs_of(Config, "defsent_plus")


def module_of(*overrides: str, folder: object = "runs") -> DefSentPlus:
    """Round 1 of a config as its training begins; its entries are kept in `folder`."""
    torch.manual_seed(0)
    cfg = config(*PLAIN, f"runs_dir={folder}", *overrides)
    return round_module(cfg, load_dictionary(cfg), None, 1)


def batch(rows: int = 8, length: int = 9, words: int = 40) -> dict[str, Tensor]:
    """Random token rows of different lengths with entries."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(4, length + 1, (rows,), generator=generator)
    ids = torch.randint(10, 200, (rows, length), generator=generator)
    mask = (torch.arange(length) < sizes[:, None]).long()
    ids[:, 0] = 2
    labels = torch.randint(words, (rows,), generator=generator)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "ids": torch.arange(rows),
        "labels": labels,
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A smoke run of two rounds, the second with ICA, whose checkpoints are all kept."""
    words = [
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "run_id=r",
        "trainer.keep_checkpoints=5",
    ]
    return train("defsent_plus", "smoke", words), words
