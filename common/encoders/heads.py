"""Projection heads: bias-free linear maps and multi-layer perceptrons."""

from collections.abc import Sequence
from typing import Literal

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
        layers.append(nn.Linear((in_dim, *hidden_dims)[-1], out_dim, bias=not last_norm))
        if last_norm:
            layers += _norm(norm, out_dim, affine=last_affine)
        self.layers = nn.Sequential(*layers)
        self.in_dim, self.out_dim = in_dim, out_dim

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, in_dim) -> (B, out_dim)."""
        output: Tensor = self.layers(features)
        return output


def matching_head(width: int) -> nn.Sequential:
    """Logits (N, 2) of "does not match" and "matches" from the first state of a fused pair.

    Source: Zeng et al. 2022, "X-VLM", released head, arXiv 2111.08276.

    Args:
        width: of the states.
    """
    return nn.Sequential(
        nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 2)
    )


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


def _norm(norm: Norm, width: int, *, affine: bool = True) -> list[nn.Module]:
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm1d(width, affine=affine)]
    return [nn.LayerNorm(width, elementwise_affine=affine)]
