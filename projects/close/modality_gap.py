"""Bridges over the modality gap: what is done to text vectors that stand in for image vectors.

# B texts, D dim, P draws a text
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.state_dict import read_state_dict


class GapStatistics(NamedTuple):
    """What pairs say about the gap; unit vectors of D dimensions.

    Attributes:
        shift: (D,) mean of image minus text.
        root: (D, D) with root @ root.T the covariance of image minus text.
        weight: (D, D) of the least-squares map from text to image.
        bias: (D,) of that map.
    """

    shift: Tensor
    root: Tensor
    weight: Tensor
    bias: Tensor


def gap_statistics(text: Tensor, image: Tensor) -> GapStatistics:
    """Statistics of pairs.

    Args:
        text: (N, D) vectors of texts, normalised here; N > D for a map that is determined.
        image: (N, D) of their images, normalised here.

    Raises:
        ValueError: shapes that don't fit.

    >>> found = gap_statistics(torch.eye(2), torch.eye(2).flip(0))
    >>> found.shift.tolist()
    [0.0, 0.0]
    """
    if text.shape != image.shape or text.ndim != 2 or len(text) < 2:
        raise ValueError(f"{tuple(text.shape)} texts and {tuple(image.shape)} images are no pairs")
    t, v = F.normalize(text.double(), dim=1), F.normalize(image.double(), dim=1)
    difference = v - t
    shift = difference.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(difference.T))
    root = vectors * values.clamp(min=0).sqrt()
    # ridge of rounding size, so that directions without any text have weight 0
    x, y = t - t.mean(0), v - v.mean(0)
    ridge = 1e-8 * len(t) * torch.eye(t.shape[1], dtype=t.dtype, device=t.device)
    weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T
    bias = v.mean(0) - weight @ t.mean(0)
    return GapStatistics(*(part.float() for part in (shift, root, weight, bias)))


def read_gap_statistics(path: str | Path) -> GapStatistics:
    """Statistics of a safetensors file with ``shift``, ``root``, ``weight`` and ``bias``.

    Raises:
        UserError: no such file, or other tensors in it.
    """
    stored = read_state_dict(Path(path))
    try:
        return GapStatistics(*(stored[name] for name in GapStatistics._fields))
    except KeyError as error:
        raise UserError(
            f"{path} has no tensor {error}: statistics of the gap need"
            f" {', '.join(GapStatistics._fields)}"
        ) from error


def add_noise(vectors: Tensor, noise: Tensor, scale: float, *, renormalize: bool = True) -> Tensor:
    """Text vectors with Gaussian noise.

        t' = (t + w e) / |t + w e|,  e ~ N(0, I)

    The expected cosine of t' and t is about 1 / sqrt(1 + D w^2).

    Source: Gu, Clark & Kembhavi 2023, "I Can't Believe There's No Images!", section 3, arXiv
    2211.09778.

    Args:
        vectors: (B, D), unit rows.
        noise: (B, D) standard normal draws.
        scale: w, >= 0.
        renormalize: back to unit rows.

    >>> add_noise(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1.0).tolist()
    [[0.7071067690849304, 0.7071067690849304]]
    """
    moved = vectors + scale * noise
    return F.normalize(moved, dim=-1) if renormalize else moved


# tensors of each kind of adapter
NEEDS: dict[str, tuple[str, ...]] = {
    "noise": (),
    "shift": ("shift",),
    "linear": ("weight", "bias"),
    "covariance": ("shift", "root"),
}


class TextAdapter(nn.Module):
    """From a text's vector to one that may stand in for an image's.

        noise        t + w e
        shift        t + s + w e                      s: a constant vector
        linear       (A t + b) / |A t + b| + w e
        covariance   t + s + c R e' + w e             R R^T: covariance of image minus text

    Each is normalised at the end. In evaluation no noise is drawn: shift and map stay, noise and
    covariance are the identity.

    Source: Gu, Clark & Kembhavi 2023, section 3 and appendix, arXiv 2211.09778, and the released
    code, whose factor of the structured noise is c = 3.

    Args:
        kind: noise, shift, linear or covariance.
        scale: w.
        shift: (D,) for shift and covariance.
        weight: (D, D) for linear.
        bias: (D,) for linear.
        root: (D, D) for covariance.
        factor: c.

    Raises:
        ValueError: an unknown kind, or one without its tensors.
    """

    def __init__(
        self,
        kind: str = "noise",
        scale: float = 0.0,
        *,
        shift: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        root: Tensor | None = None,
        factor: float = 3.0,
    ) -> None:
        super().__init__()
        parts = {"shift": shift, "weight": weight, "bias": bias, "root": root}
        if kind not in NEEDS or any(parts[name] is None for name in NEEDS[kind]):
            raise ValueError(f"adapter {kind!r} is none of {NEEDS}, or lacks its tensors")
        self.kind, self.scale, self.factor = kind, scale, factor
        for name in NEEDS[kind]:
            self.register_buffer(name, parts[name])

    @property
    def num_draws(self) -> int:
        """P: normal vectors that a text needs in training; 0 without noise."""
        if self.kind == "covariance":
            return 2
        return int(self.scale > 0)

    def forward(self, vectors: Tensor, noise: Tensor | None = None) -> Tensor:
        """Adapted vectors.

        Args:
            vectors: (B, D), unit rows.
            noise: (B, P, D) standard normal draws; read in training mode alone.

        Returns:
            (B, D), unit rows.

        Raises:
            ValueError: training mode without the draws.
        """
        if self.training and self.num_draws and (noise is None or noise.shape[1] < self.num_draws):
            raise ValueError(f"{self.kind} needs {self.num_draws} draw(s) a text in training mode")
        moved = vectors
        if self.kind == "linear":
            moved = F.normalize(
                F.linear(vectors, self.get_buffer("weight"), self.get_buffer("bias")), dim=-1
            )
        if self.kind == "shift":
            moved = vectors + self.get_buffer("shift")
        if self.kind == "covariance" and self.training:
            assert noise is not None
            drawn = noise[:, 1] @ self.get_buffer("root").T
            moved = vectors + self.get_buffer("shift") + self.factor * drawn
        if self.training and self.scale > 0:
            assert noise is not None
            return add_noise(moved, noise[:, 0], self.scale)
        return moved if moved is vectors else F.normalize(moved, dim=-1)


def random_shift(dim: int, magnitude: float, seed: int) -> Tensor:
    """A fixed vector of random direction, (D,) float32.

    Args:
        dim: D.
        magnitude: its length.
        seed: of the direction.
    """
    drawn = torch.randn(dim, generator=torch.Generator().manual_seed(seed))
    return magnitude * F.normalize(drawn, dim=0)
