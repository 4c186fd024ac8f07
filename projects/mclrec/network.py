"""The learnable augmenters, and what the encoder is built from."""

import itertools
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from projects.mclrec.config import ModelConfig


class Augmenter(nn.Module):
    """w_phi: linear layers with GELU between them, and rows of unit length in the end.

    Source: Qin et al. 2023, learnable augmenters, arXiv 2304.07763; widths and the length of the
    rows as in the release, where the paper says "3-layer MLP".

    Args:
        dim: D, of input and output.
        inner: widths between.
    """

    def __init__(self, dim: int, inner: list[int]) -> None:
        super().__init__()
        sizes = [dim, *inner, dim]
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)

    def forward(self, states: Tensor) -> Tensor:
        """(B, D) -> (B, D), rows of length 1."""
        *inner, last = self.layers
        for layer in inner:
            states = F.gelu(layer(states))
        return F.normalize(last(states), dim=-1)


class Augmenters(nn.Module):
    """w_phi1 and w_phi2: two augmenters, or one for both views.

    Args:
        dim: D.
        inner: widths between.
        shared: whether there is one for both.
    """

    def __init__(self, dim: int, inner: list[int], *, shared: bool = False) -> None:
        super().__init__()
        self.first = Augmenter(dim, inner)
        self.second = self.first if shared else Augmenter(dim, inner)

    def forward(self, h_1: Tensor, h_2: Tensor) -> tuple[Tensor, Tensor]:
        """z_1 and z_2, (B, D) each."""
        return self.first(h_1), self.second(h_2)


def encoder_options(model: ModelConfig, max_length: int) -> dict[str, Any]:
    """Arguments of `SASRec`, alongside the number of items."""
    return {
        "dim": model.dim,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "ffn_dim": model.ffn_dim,
        "max_length": max_length,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "length_groups": model.length_groups,
    }
