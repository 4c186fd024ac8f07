"""Next-token distributions of a decoder's lower layers, and the choice of one of them.

# ... any leading sizes (B rows, T places), C candidate layers, D hidden size, V vocabulary
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.decoding.contrast import log_probabilities
from common.encoders.text.language_models.causal import final_logits

Bucket = Literal["dola_low", "dola_high", "pli_low", "pli_mid", "pli_high"]
_PLI: dict[str, tuple[int, ...]] = {
    "pli_low": (4, 8),
    "pli_mid": (12, 16, 20),
    "pli_high": (24, 28),
}
_PLI_BLOCKS = 32  # of the models that these layers were named for
# where architectures of transformers keep the norm between the last block and the head
_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "decoder.final_layer_norm")


def num_blocks(model: Any) -> int:
    """Blocks of a decoder: its hidden states have the indices 0 (embeddings) to this number."""
    return int(model.config.num_hidden_layers)


def candidate_layers(layers: Bucket | Sequence[int], blocks: int) -> list[int]:
    """Layers that a lower one is chosen from, for a decoder of so many blocks.

    Layer l is the state behind l blocks. DoLa's buckets are the even layers of the lower half (0,
    the embeddings, among them) and of the upper half below the last; the layers of PLI, which are
    named for 32 blocks, are scaled.

    Source: Chuang et al. 2024, "DoLa", section 2.3 and released code, arXiv 2309.03883; Chen et al.
    2025, "PLI", arXiv 2506.02973.

    Args:
        layers: name of a bucket, or the layers themselves.
        blocks: of the decoder.

    Raises:
        UserError: a layer that is not a lower layer of this decoder, none, or one twice.

    >>> candidate_layers("dola_high", 32), candidate_layers("dola_low", 6), candidate_layers("pli_low", 16)
    ([16, 18, 20, 22, 24, 26, 28, 30], [0, 2], [2, 4])
    """
    if isinstance(layers, str):
        if layers not in get_args(Bucket):
            raise UserError(f"layers={layers}: give a list or one of {', '.join(get_args(Bucket))}")
        if layers in _PLI:
            scaled = [round(layer * blocks / _PLI_BLOCKS) for layer in _PLI[layers]]
            candidates = sorted({min(max(layer, 1), blocks - 1) for layer in scaled})
        else:
            half = blocks // 2
            span = range(half) if layers == "dola_low" else range(half, blocks)
            candidates = [layer for layer in span if layer % 2 == 0]
    else:
        candidates = list(layers)
    if (
        not candidates
        or len({*candidates}) < len(candidates)
        or not all(0 <= i < blocks for i in candidates)
    ):
        raise UserError(
            f"layers={layers} of a decoder of {blocks} blocks: give different ones from 0 "
            f"(embeddings) to {blocks - 1}"
        )
    return candidates


def final_norm(model: Any) -> nn.Module:
    """The norm between the last block and the head of a causal LM of transformers.

    Raises:
        UserError: an architecture whose norm is elsewhere.
    """
    body = model.base_model
    for name in _NORMS:
        part: Any = body
        for step in name.split("."):
            part = getattr(part, step, None)
        if isinstance(part, nn.Module):
            return part
    raise UserError(
        f"the last norm of {type(model).__name__} is not known: leave early_exit_norm=false"
    )


def exit_logits(model: Any, states: Tensor, layer: int, *, norm: bool = False) -> Tensor:
    """Logits of a layer's states: the head, and the model's own change of its logits.

    Source: DoLa and ICD apply the head to the states as they are; with the last norm it is the
    "logit lens".

    Args:
        model: causal LM of transformers.
        states: (..., D) of `layer`, from its ``hidden_states``; those of the last layer are normed
            already and give the model's own logits either way.
        layer: index in ``hidden_states``.
        norm: apply the last norm to lower layers.

    Returns:
        (..., V).

    Raises:
        UserError: see `final_norm`.
    """
    if norm and layer < num_blocks(model):
        states = final_norm(model)(states)
    return final_logits(model, model.get_output_embeddings()(states))


def js_divergence(mature: Tensor, premature: Tensor) -> Tensor:
    """Distance of a lower layer's distribution from the last one's, in the form of DoLa's code.

        M = (p + q) / 2,   (KL(M || p) + KL(M || q)) / 2V

    Source: Chuang et al. 2024, arXiv 2309.03883, released code. It is not the Jensen-Shannon
    divergence of the paper: the arguments of KL are swapped, and the mean over the vocabulary is
    taken.

    Args:
        mature: (..., V) logits of the last layer.
        premature: (C, ..., V) logits of the candidates, or (..., V).

    Returns:
        (C, ...), or (...), in float32 at least, >= 0.
    """
    log_p, log_q = log_probabilities(mature), log_probabilities(premature)
    mixture = (log_p.exp() + log_q.exp()) / 2
    both = [
        F.kl_div(log, mixture, reduction="none").mean(-1) for log in (log_p.expand_as(log_q), log_q)
    ]
    return (both[0] + both[1]) / 2


def furthest_layer(mature: Tensor, premature: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate that is furthest from the last layer, at every place of every row by itself.

    Source: Chuang et al. 2024, equation 4, arXiv 2309.03883.

    Args:
        mature: (..., V) logits of the last layer.
        premature: (C, ..., V) logits of the candidates.

    Returns:
        (...) int64, which candidate (the first of equals), and (C, ...) divergences.
    """
    divergence = js_divergence(mature, premature)
    return divergence.argmax(0), divergence


def at_layer(values: Tensor, chosen: Tensor) -> Tensor:
    """Values (C, ..., V) of the chosen candidate (...) at every place: (..., V)."""
    index = chosen[None, ..., None].expand(1, *values.shape[1:])
    return torch.gather(values, 0, index)[0]
