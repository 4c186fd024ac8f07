"""Configs, modules and batches for the tests of 1-to-K."""

import torch

from projects.one_to_k.config import Config
from projects.one_to_k.data import build_data
from projects.one_to_k.module import OneToK
from projects.one_to_k.multilingual import MultilingualBatch
from tests.configs import configs_of

PLAIN = ("method.itm_weight=0", "method.mlm_weight=0", "method.vicreg=false", "eval.k_test=0")

config = configs_of(Config, "one_to_k")


def module_of(*words: str, seed: int = 0) -> OneToK:
    """The smoke config's module, from a seed."""
    torch.manual_seed(seed)
    return OneToK(config(*words))


def batch_of(*words: str, count: int = 8, epoch: int = 0) -> MultilingualBatch:
    """The first samples of the training set."""
    return build_data(config(*words)).train_set[[(i, epoch) for i in range(count)]]
