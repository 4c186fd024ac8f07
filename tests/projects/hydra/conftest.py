"""Configs, batches and modules for the tests of Hydra."""

import json
from pathlib import Path

import torch
from torch import nn

from projects.hydra.config import Config
from projects.hydra.module import Hydra
from tests.configs import configs_of

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "hydra.json").read_text(encoding="utf-8")
)["cases"]

config = configs_of(Config, "hydra")


def module_of(*overrides: str) -> Hydra:
    """A module of the smoke config with seeded weights, in training mode."""
    torch.manual_seed(0)
    return Hydra(config(*overrides)).train()


def batch_of(size=24, classes=8, views=1, seed=0):
    """Random images with labels and a permutation as partner labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    batch = {
        "view_1": torch.randn(size, 3, 16, 16, generator=generator),
        "labels": labels,
        "partner_labels": labels[torch.randperm(size, generator=generator)],
        "ids": torch.arange(size),
    }
    if views == 2:
        batch["view_2"] = torch.randn(size, 3, 16, 16, generator=generator)
    return batch


class FixedGate(nn.Module):
    """Returns given gates."""

    def __init__(self, gate):
        super().__init__()
        self.given = gate

    def forward(self, labels, partner_labels):
        return self.given

    def penalty(self, gate):
        return gate.new_zeros(())


def golden_inputs(case):
    """x, labels, partner labels and gate of a golden case, float64."""
    n, d, classes = case["N"], case["d"], case["classes"]
    index = torch.arange(n)
    x = torch.sin(1 + torch.arange(n * d, dtype=torch.float64).view(n, d)).requires_grad_()
    labels, partners = (2 * index) % classes, (3 * index + 1) % classes
    if case["kind"] == "identical":
        partners = labels
    table = torch.sin(torch.arange(classes * d, dtype=torch.float64)).view(classes, d)
    gate = torch.sigmoid(1.5 * (table[labels] + table[partners]))
    gate = torch.ones_like(gate) if case["kind"] == "open" else gate
    return x, labels, partners, gate.requires_grad_()
