"""Encoders with disentangled attention (DeBERTa-v2), and BERT's content weights.

Source: He et al. 2021, "DeBERTa", section 3.1, arXiv 2006.03654; its third version, arXiv
2111.09543.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, DebertaV2Config, DebertaV2ForMaskedLM

from common.config import UserError
from common.encoders.text.tower import load_transformer

# both position terms, no absolute position at the input, one table of relative positions for all
# layers, no segments; log buckets as in the second and third version
DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "share_att_key": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
}
_SIZES = {  # layers, hidden size, heads, inner size, vocabulary
    "tiny": (4, 128, 4, 512, 8192),
    "small": (12, 384, 6, 1536, 30522),
    "base": (12, 768, 12, 3072, 128100),
    "vega-1.3b": (24, 2048, 32, 8192, 50265),
}


def disentangled_config(size: str, **fields: Any) -> dict[str, Any]:
    """Fields of a configuration by the name of its size, for ``model_type`` deberta-v2.

    Args:
        size: tiny, small, base or vega-1.3b.
        fields: in place of those of the size.

    Raises:
        UserError: unknown size.

    >>> disentangled_config("tiny")["hidden_size"]
    128
    """
    if size not in _SIZES:
        raise UserError(f"no encoder of size '{size}'; there are {', '.join(_SIZES)}")
    names = (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
    )
    sizes = dict(zip(names, _SIZES[size], strict=True))
    return {"model_type": "deberta-v2", **sizes, **DISENTANGLED, **fields}


def disentangled_from_bert(pretrained: str, **fields: Any) -> DebertaV2ForMaskedLM:
    """A masked language model with disentangled attention and the content weights of a BERT.

    Content projections, feed-forward layers, norms, word embeddings and prediction head are taken;
    queries are multiplied by sqrt(3), which the scale sqrt(3 d) of three terms takes back.
    Positions
    have projections of their own (``share_att_key`` is off) and a table of zeros, so that attention
    begins as that of the BERT between words without any position. Its absolute positions are
    dropped; of its segments the first is added to the words.

    Args:
        pretrained: a checkpoint of BERT's kind with its head, see `load_transformer`.
        fields: of the configuration, e.g. ``position_buckets``.

    Raises:
        UserError: absent weights, or an architecture other than BERT's.
    """
    bert: Any = load_transformer(pretrained, auto_class=AutoModelForMaskedLM)
    old = bert.config
    if old.model_type != "bert":
        raise UserError(
            f"pretrained={pretrained!r} is not a BERT but {old.model_type}: its weights cannot be"
            " taken"
        )
    taken = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_range",
        "max_position_embeddings",
        "pad_token_id",
        "layer_norm_eps",
    )
    kept = {name: getattr(old, name) for name in taken}
    settings = {**DISENTANGLED, **kept, "share_att_key": False, "norm_rel_ebd": "none", **fields}
    new = DebertaV2ForMaskedLM(DebertaV2Config(**settings))
    weights = {**_position_zeros(new), **_renamed(bert.state_dict(), settings)}
    lost = new.load_state_dict(weights, strict=False).missing_keys
    if lost:
        raise UserError(f"pretrained={pretrained!r} does not fill a DeBERTa: no {lost[0]}")
    new.tie_weights()
    new.train()
    return new


def shallow(model: DebertaV2ForMaskedLM, layers: int) -> DebertaV2ForMaskedLM:
    """A copy with the first layers alone.

    Args:
        model: stays as it is.
        layers: 1 to the number of its layers.

    Raises:
        UserError: more layers than there are.
    """
    if not 1 <= layers <= model.config.num_hidden_layers:
        raise UserError(f"{layers} layers of {model.config.num_hidden_layers} cannot be taken")
    copied: DebertaV2ForMaskedLM = copy.deepcopy(model)
    copied.deberta.encoder.layer = copied.deberta.encoder.layer[:layers]
    copied.config.num_hidden_layers = layers
    return copied


def _renamed(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """BERT's tensors under DeBERTa's names."""
    renamed: dict[str, Tensor] = {}
    terms = 1 + len(settings["pos_att_type"] or [])
    for name, value in weights.items():
        new = name.replace("bert.", "deberta.", 1) if name.startswith("bert.") else name
        for part in ("query", "key", "value"):
            new = new.replace(f"self.{part}.", f"self.{part}_proj.")
        if ".self.query_proj." in new:
            value = value * math.sqrt(terms)
        if any(part in new for part in ("position_embeddings", "position_ids", "pooler")):
            continue
        if "token_type_embeddings" not in new:
            renamed[new] = value
    words = "deberta.embeddings.word_embeddings.weight"
    first = weights.get("bert.embeddings.token_type_embeddings.weight")
    if first is not None:
        # the prediction head's matrix is tied to the words: the shift of all logits of a place by
        # the same <h, segment> leaves its softmax alone
        renamed[words] = renamed[words] + first[0]
        renamed["cls.predictions.decoder.weight"] = renamed[words]
    return renamed


def _position_zeros(model: DebertaV2ForMaskedLM) -> dict[str, Tensor]:
    """The table of relative positions and the biases of its projections as zeros.

    The projections as drawn.
    """
    tensors = {k: v for k, v in model.state_dict().items() if "rel_embeddings" in k or ".pos_" in k}
    return {
        k: torch.zeros_like(v) if "rel_embeddings" in k or k.endswith("bias") else v
        for k, v in tensors.items()
    }
