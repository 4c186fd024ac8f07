"""Reading of the golden files and the input formulas they use."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parents[2] / "golden"


def load(slug: str) -> dict[str, Any]:
    """One golden file."""
    return json.loads((FOLDER / f"{slug}.json").read_text())


def wave(rows: int, dim: int, phase: float) -> Tensor:
    """M(phase)[i, j] = sin(phase + i * dim + j), a leaf that wants a gradient."""
    index = torch.arange(rows * dim, dtype=torch.float64).view(rows, dim)
    return torch.sin(phase + index).requires_grad_()


def fill(shape: tuple[int, ...], phase: float, factor: float = 1.0) -> Tensor:
    """factor * sin(phase + 0.7 k + 0.013 k^2) over the row-major index k."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (factor * torch.sin(phase + 0.7 * k + 0.013 * k * k)).view(shape).requires_grad_()


def flat(shape: tuple[int, ...], function: str, phase: float, step: float) -> Tensor:
    """sin or cos of (phase + step * k) over the row-major index k."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return getattr(torch, function)(phase + step * k).view(shape).requires_grad_()


def sentences(batch: int, views: int, dim: int) -> Tensor:
    """h[b, s, j] of the sentence-embedding files."""
    b = torch.arange(batch, dtype=torch.float64)[:, None, None]
    s = torch.arange(views, dtype=torch.float64)[None, :, None]
    j = torch.arange(dim, dtype=torch.float64)[None, None, :]
    h = torch.sin(1 + (b * views + s) * dim + j) * (1 + 0.1 * s) + 0.3 * torch.cos(b + 0.5 * j)
    return h.requires_grad_()


def sentence_head(dim: int) -> nn.Sequential:
    """The head tanh(W x + b) of the sentence-embedding files, float64."""
    index = torch.arange(dim, dtype=torch.float64)
    dense = nn.Linear(dim, dim).double()
    dense.weight.data = 0.2 * torch.cos(index[:, None] * dim + index)
    dense.bias.data = 0.05 * torch.sin(index)
    return nn.Sequential(dense, nn.Tanh())


def assert_close(
    found: Tensor | float, wanted: Any, rel: float = 1e-6, absolute: float = 1e-12
) -> None:
    """A number, or the first numbers of a tensor, equal the recorded ones."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()[: wanted.numel()]
    torch.testing.assert_close(found, wanted.flatten(), rtol=rel, atol=absolute)


def grad_norm(x: Tensor) -> Tensor:
    """Norm of a leaf's gradient."""
    assert x.grad is not None
    return x.grad.norm()
