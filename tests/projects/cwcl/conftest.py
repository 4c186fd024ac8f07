"""Configs, modules and batches for the tests of CWCL."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.cwcl.config import Config
from projects.cwcl.module import ImageTextCWCL
from projects.cwcl.objective import soft_targets
from projects.cwcl.spoken_module import SpeechTextCWCL
from tests.configs import configs_of

config = configs_of(Config, "cwcl")


def wave(phase: float, rows: int, columns: int) -> Tensor:
    """M[i, j] = sin(phase + i * columns + j), float64."""
    index = torch.arange(rows * columns, dtype=torch.float64)
    return (phase + index).sin().reshape(rows, columns)


def module_of(*overrides: str) -> ImageTextCWCL:
    """A module with the weights of seed 0."""
    torch.manual_seed(0)
    return ImageTextCWCL(config(*overrides))


def dense(
    frozen: Tensor, trained: Tensor, scale: Any, weights: Tensor, reverse: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The objective written out with matrices: soft cross entropy plus (soft) cross entropy."""
    p, q = F.normalize(frozen, dim=1), F.normalize(trained, dim=1)
    logits = scale * p @ q.T
    one_hot = torch.eye(len(p), dtype=p.dtype)
    targets = soft_targets(weights.to(p.dtype))
    back = one_hot if reverse is None else soft_targets(reverse.to(p.dtype))
    weighted = -(targets * logits.log_softmax(1)).sum(1).mean()
    return weighted, -(back * logits.T.log_softmax(1)).sum(1).mean()


class LinearSpeech(nn.Linear):
    """A speech tower that multiplies waveforms (B, T) with a matrix."""

    embed_dim = 12

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(waveforms)


def spoken_of(*overrides: str) -> SpeechTextCWCL:
    """A speech module whose towers are small matrices; transcripts come as their vectors."""
    torch.manual_seed(0)
    speech: Any = LinearSpeech(20, LinearSpeech.embed_dim)
    text: Any = nn.Identity()
    return SpeechTextCWCL(config(*overrides, name="smoke_speech"), text, speech)


def batch_of(size: int = 8, length: int = 16) -> dict[str, Tensor]:
    """Images and token rows; rows 0 and 4 have the same image."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 40000, (size, length - 2), generator=generator)
    start, end = torch.full((size, 1), 49406), torch.full((size, 1), 49407)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return {
        "images": images,
        "tokens": torch.cat([start, words, end], 1),
        "ids": torch.arange(size),
    }
