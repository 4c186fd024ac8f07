"""Prediction head of a masked language model beside an encoder that is trained for another task."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from common.config import UserError
from common.encoders.text.tower import load_transformer


def masked_lm_head(
    pretrained: str, encoder: PreTrainedModel, *, config: Mapping[str, Any] | None = None
) -> nn.Module:
    """Head of the same checkpoint, its output matrix tied to the encoder's word embeddings.

    Args:
        pretrained: see `common.encoders.text_tower`; the place that `encoder` came from.
        encoder: maps ids to states (B, L, D).
        config: with "random": the architecture.

    Returns:
        Module, states (..., D) -> logits (..., V).

    Raises:
        UserError: the architecture has no masked language model, or no weights for its head.
    """
    full = load_transformer(pretrained, config=config, auto_class=AutoModelForMaskedLM)
    head = getattr(full, "cls", None) or getattr(full, "lm_head", None)
    output = full.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None or output is None:
        raise UserError(f"no prediction head is known for {type(full).__name__}")
    output.weight = encoder.get_input_embeddings().weight
    assert isinstance(head, nn.Module)
    return head
