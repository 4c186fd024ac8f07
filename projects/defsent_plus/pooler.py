"""The layer between pooling and entries in training."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from common.encoders.text.sentence import SentenceEncoder
from common.losses.output import at_least_float32
from projects.defsent_plus.config import Config

if TYPE_CHECKING:
    pass


class Pooler(nn.Module):
    """h = act(W pool(f(D)) + c), between pooling and entries.

    Source: arXiv 2405.16153 and the official code: BERT's own pooler with tanh, for RoBERTa the
    dense layer of its language-model head with GELU.

    Args:
        dim: D.
        activation: name of a transformers activation.
        norm: eps of the layer norm that follows in the word-prediction layer of DefSent (Tsukagoshi
            et al. 2021, section 3, arXiv 2105.04339), with a constant 1 behind its output, which
            the bias of the decoder is multiplied by; None: neither.
    """

    def __init__(self, dim: int, activation: str, norm: float | None = None) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.activation = ACT2FN[activation]
        self.norm = None if norm is None else nn.LayerNorm(dim, eps=norm)

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, D) -> h (B, D), with norm (B, D + 1); at least float32."""
        h = self.activation(self.dense(pooled))
        if self.norm is None:
            return at_least_float32(h)
        h = at_least_float32(self.norm(h))
        return torch.cat([h, torch.ones_like(h[:, :1])], dim=1)


def activation(cfg: Config, encoder: SentenceEncoder) -> str:
    """Name of the pooler's activation."""
    if cfg.entry.targets == "lm_head":
        return str(encoder.tower.model.config.hidden_act)
    if cfg.pooler.activation != "auto":
        return cfg.pooler.activation
    return "gelu" if pooler_source(cfg, encoder) == "lm_head" else "tanh"


def norm_eps(encoder: SentenceEncoder) -> float:
    """Of the layer norms of the architecture, that of its word-prediction layer included."""
    return float(getattr(encoder.tower.model.config, "layer_norm_eps", 1e-12))


def pooler_source(cfg: Config, encoder: SentenceEncoder) -> Literal["own", "lm_head"]:
    """Where the pooler's dense layer comes from."""
    if cfg.pooler.source != "auto":
        return cfg.pooler.source
    return "lm_head" if encoder.tower.model.config.model_type == "roberta" else "own"
