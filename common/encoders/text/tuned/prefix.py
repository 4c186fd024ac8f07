"""Prefix tuning (P-tuning v2): learned keys and values before those of the text, in every layer.

# B batch, L length, m prefix length, N layers, H heads, D hidden size
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from common.config import UserError


class Prefix(nn.Module):
    """The prefix of every layer, stored as the peft library stores it.

    Source: Liu et al. 2022, "P-Tuning v2", section 3.2, arXiv 2110.07602; the sizes and the order
    of the table are those of its released code.

    Args:
        length: m >= 1.
        layers: N of the backbone.
        heads: H.
        hidden_size: D.
        projection_dim: width of the perceptron that makes the prefix from an (m, D) table; None:
            the table holds keys and values themselves.
        dropout: of keys and values in training, resampled for each row.
        std: of the table at first.
    """

    def __init__(
        self,
        length: int,
        layers: int,
        heads: int,
        hidden_size: int,
        *,
        projection_dim: int | None = None,
        dropout: float = 0.1,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        from peft import PrefixEncoder

        self.length, self.layers, self.heads = length, layers, heads
        self.hidden_size, self.projection_dim = hidden_size, projection_dim
        make: Any = PrefixEncoder
        self.encoder = make(self.peft_config())
        nn.init.normal_(self.encoder.embedding.weight, std=std)
        self.dropout = nn.Dropout(dropout)

    def peft_config(self, stored: bool = False) -> Any:
        """How peft describes the prefix.

        `stored`: as a table without the perceptron, for inference.
        """
        from peft import PrefixTuningConfig, TaskType

        return PrefixTuningConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            inference_mode=stored,
            num_virtual_tokens=self.length,
            token_dim=self.hidden_size,
            num_layers=self.layers,
            num_attention_heads=self.heads,
            num_transformer_submodules=1,
            prefix_projection=self.projection_dim is not None and not stored,
            encoder_hidden_size=self.projection_dim or self.hidden_size,
        )

    def forward(self, batch_size: int) -> Tensor:
        """Keys and values of all layers, (B, m, 2 N D)."""
        places = torch.arange(self.length, device=self.encoder.embedding.weight.device)
        prefixes: Tensor = self.encoder(places.expand(batch_size, -1))
        return prefixes

    def cache(self, batch_size: int) -> DynamicCache:
        """A fresh cache for one pass: the pass itself appends to it."""
        states = self(batch_size).view(batch_size, self.length, 2 * self.layers, self.heads, -1)
        pairs = (
            self.dropout(states).permute(2, 0, 3, 1, 4).split(2)
        )  # of each layer (2, B, H, m, D/H)
        cache = DynamicCache()
        for layer, (key, value) in enumerate(pairs):
            cache.update(key, value, layer)
        return cache

    @torch.no_grad()
    def table(self) -> Tensor:
        """(m, 2 N D) keys and values, whatever makes them."""
        prefixes: Tensor = self(1)[0].contiguous()
        return prefixes


def cache_argument(model: PreTrainedModel) -> str | None:
    """What a backbone of transformers calls the keys and values of an earlier pass.

    None: it reads none.
    """
    names = inspect.signature(type(model).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def prefix_of(model: PreTrainedModel, length: int, **options: Any) -> Prefix:
    """A new prefix that fits a backbone; see `Prefix`.

    Raises:
        UserError: a backbone whose attention takes no keys from outside.
    """
    if cache_argument(model) is None:
        raise UserError(
            f"{type(model).__name__} takes no prefix; use an encoder of the BERT, RoBERTa or"
            " ELECTRA kind, or tuning.kind=lora"
        )
    config: Any = model.config
    return Prefix(
        length, config.num_hidden_layers, config.num_attention_heads, config.hidden_size, **options
    )
