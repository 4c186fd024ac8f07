"""Configs, modules and batches for the tests of TREND."""

import torch

from projects.trend.config import Config
from projects.trend.data import build_data, open_sets
from projects.trend.module import Trend
from tests.configs import configs_of

config = configs_of(Config, "trend")


def module_of(*overrides: str) -> Trend:
    """A module of the smoke config with seeded weights, in training mode."""
    torch.manual_seed(0)
    return Trend(config(*overrides)).train()


def samples_of(*overrides: str, horizon: int = 2):
    """Training samples of the smoke config."""
    cfg = config(*overrides)
    return build_data(cfg, open_sets(cfg, "train"), horizon).train_set


def batch_of(*overrides: str, horizon: int = 2, rows: int = 2, epoch: int = 0) -> dict:
    """The first samples as a batch."""
    return samples_of(*overrides, horizon=horizon)[[(i, epoch) for i in range(rows)]]


def as_double(batch: dict) -> dict:
    """Floating point tensors in float64."""
    return {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in batch.items()
    }
