"""Projection heads: linear maps without bias, perceptrons, heads on pairs of vectors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "layer", "none"]


def linear_projection(in_dim: int, out_dim: int) -> nn.Linear:
    """Bias-free matrix with N(0, 1/in_dim) entries: (B, in_dim) -> (B, out_dim).

    Source: Radford et al. 2021, arXiv 2103.00020, official code.
    """
    projection = nn.Linear(in_dim, out_dim, bias=False)
    nn.init.normal_(projection.weight, std=in_dim**-0.5)
    return projection


class MLPHead(nn.Module):
    """Projector or predictor: linear, norm, ReLU, ..., linear.

    Source: Chen et al. 2020 (SimCLR), arXiv 2002.05709; Grill et al. 2020 (BYOL),
    arXiv 2006.07733; Zbontar et al. 2021 (Barlow Twins), arXiv 2103.03230.

    Args:
        in_dim: input dimension.
        hidden_dims: one entry per hidden layer; may be empty.
        out_dim: output dimension.
        norm: after each hidden linear layer, which then has no bias.
        last_norm: True also normalises the output (without ReLU).
        last_affine: False: that last norm has no weight and bias.
        last_bias: of the last linear layer, where no norm follows.

    Raises:
        ValueError: unknown norm, or `last_norm` without a norm.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        norm: Norm = "batch",
        last_norm: bool = False,
        last_affine: bool = True,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "layer", "none"):
            raise ValueError(f"norm must be batch, layer or none, got {norm!r}")
        if last_norm and norm == "none":
            raise ValueError("last_norm needs norm=batch or norm=layer")
        layers: list[nn.Module] = []
        for fan_in, width in zip((in_dim, *hidden_dims)[:-1], hidden_dims, strict=True):
            layers.append(nn.Linear(fan_in, width, bias=norm == "none"))
            layers += [*_norm(norm, width), nn.ReLU(inplace=True)]
        layers.append(
            nn.Linear((in_dim, *hidden_dims)[-1], out_dim, bias=last_bias and not last_norm)
        )
        if last_norm:
            layers += _norm(norm, out_dim, affine=last_affine)
        self.layers = nn.Sequential(*layers)
        self.in_dim, self.out_dim = in_dim, out_dim

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, in_dim) -> (B, out_dim)."""
        output: Tensor = self.layers(features)
        return output


class ProjectedEncoder(nn.Module):
    """An encoder and the projector that is contrasted in its place (Chen et al. 2020).

    Attributes:
        encoder: images (B, 3, H, W) -> features (B, F), what is kept after training.
        projector: features -> embeddings (B, D), what is contrasted.
    """

    def __init__(self, encoder: nn.Module, projector: MLPHead) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, images: Tensor) -> Tensor:
        """Images -> embeddings (B, D)."""
        embeddings: Tensor = self.projector(self.encoder(images))
        return embeddings


def pair_features(u: Tensor, v: Tensor) -> Tensor:
    """[u; v; u * v; |u - v|], in this order: two (..., D) -> (..., 4 D).

    Source: Conneau et al. 2017, "InferSent", section 3.1, arXiv 1705.02364.

    >>> pair_features(torch.tensor([2.0]), torch.tensor([-1.0])).tolist()
    [2.0, -1.0, -2.0, 3.0]
    """
    return torch.cat([u, v, u * v, (u - v).abs()], dim=-1)


class PairHead(nn.Module):
    """Logits of pairs of vectors: a perceptron on their features, or their inner product.

    The perceptron is not symmetric in its two vectors.

    Source: Barkan et al. 2020, "Distilled Sentence Embedding", arXiv 1908.05161, released code.

    Args:
        in_dim: D of a vector.
        hidden_dims: widths of the hidden layers of "concat", ReLU after each.
        out_dim: C, logits of a pair.
        kind: "concat" of `pair_features`, or "dot" (no weights, C = 1).

    Raises:
        ValueError: "dot" with hidden layers or more than one logit, or an unknown kind.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        kind: Literal["concat", "dot"] = "concat",
    ) -> None:
        super().__init__()
        if kind not in ("concat", "dot"):
            raise ValueError(f"kind must be concat or dot, got {kind!r}")
        if kind == "dot" and (hidden_dims or out_dim != 1):
            raise ValueError("a dot product is one number: no hidden layers, out_dim=1")
        self.kind, self.in_dim, self.out_dim = kind, in_dim, out_dim
        self.hidden_dims = list(hidden_dims)
        sizes = [4 * in_dim, *hidden_dims, out_dim]
        pairs = pairwise(sizes) if kind == "concat" else ()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        """Logits (B, C) of corresponding vectors (B, D)."""
        if self.kind == "dot":
            return (u * v).sum(-1, keepdim=True)
        out = self.layers[0](pair_features(u, v))
        return self._above(out)

    def cross(self, u: Tensor, v: Tensor, chunk_size: int = 4096) -> Tensor:
        """Logits (Q, K, C) of every row of `u` (Q, D) with every row of `v` (K, D).

        The first layer's share of u alone and of v alone is computed once a vector, not once a
        pair, and its share of u * v is a product with rescaled weights; only |u - v| is made for
        every pair, `chunk_size` rows of `v` at a time.
        """
        if self.kind == "dot":
            return (u @ v.T).unsqueeze(-1)
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        w_u, w_v, w_product, w_difference = torch.split(first.weight, self.in_dim, dim=1)
        own_u, own_v = u @ w_u.T + first.bias, v @ w_v.T
        products = u.new_empty(len(u), len(v), self.out_dim)
        for start in range(0, len(v), chunk_size):
            rows = slice(start, start + chunk_size)
            for q, query in enumerate(u):
                out = own_v[rows] + own_u[q]
                out = torch.addmm(out, v[rows], (w_product * query).T)
                out = torch.addmm(out, (v[rows] - query).abs(), w_difference.T)
                products[q, rows] = self._above(out)
        return products

    def _above(self, out: Tensor) -> Tensor:
        for layer in self.layers[1:]:
            out = layer(out.relu())
        return out


def _norm(norm: Norm, width: int, *, affine: bool = True) -> list[nn.Module]:
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm1d(width, affine=affine)]
    return [nn.LayerNorm(width, elementwise_affine=affine)]
