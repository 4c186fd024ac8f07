"""Prediction head of a masked language model next to an encoder that is trained for another task."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
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
    head, output = _head_and_output(full)
    output.weight = encoder.get_input_embeddings().weight
    return head


def _head_and_output(full: PreTrainedModel) -> tuple[nn.Module, Any]:
    head = getattr(full, "cls", None) or getattr(full, "lm_head", None)
    output = full.get_output_embeddings()
    if head is None or output is None:
        raise UserError(f"no prediction head is known for {type(full).__name__}")
    assert isinstance(head, nn.Module)
    return head, output


class WordPrediction(NamedTuple):
    """The parts of a prediction head: logits = norm(act(dense(h))) @ weight.T + bias.

    Attributes:
        dense: D -> D.
        norm: of D features.
        weight: (V, D), one row a piece of the vocabulary.
        bias: (V,).
    """

    dense: nn.Linear
    norm: nn.LayerNorm
    weight: Tensor
    bias: Tensor


def word_prediction(pretrained: str, *, config: Mapping[str, Any] | None = None) -> WordPrediction:
    """Word-prediction layer of a checkpoint, of its own: not tied to any encoder that is trained.

    Args:
        pretrained: see `common.encoders.text_tower`.
        config: with "random": the architecture.

    Raises:
        UserError: the architecture has no masked language model or a head of other parts than those
            of BERT and RoBERTa, or the checkpoint has no weights for it.
    """
    full = load_transformer(pretrained, config=config, auto_class=AutoModelForMaskedLM)
    head, _ = _head_and_output(full)
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)]
    norms = [part for part in head.modules() if isinstance(part, nn.LayerNorm)]
    if len(linear) != 2 or len(norms) != 1 or linear[1].bias is None:
        raise UserError(
            f"the prediction head of pretrained={pretrained!r} is not made of dense layer, norm and"
            " decoder with bias, as those of BERT and RoBERTa are: give one of these"
        )
    dense, decoder = linear
    return WordPrediction(dense, norms[0], decoder.weight.detach(), decoder.bias.detach())
