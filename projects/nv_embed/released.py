"""Encoders in the layout of the released checkpoints, ``nvidia/NV-Embed-v1`` and ``-v2``.

| file | content |
|---|---|
| ``config.json`` | NVEmbedModel, ``text_config``, ``latent_attention_config`` |
| ``model*.safetensors`` | ``embedding_model.*``: decoder; ``latent_attention_model.*``: pooler |
| ``tokenizer.json`` and settings | tokenizer |

Files are read as data: the modelling code that comes with them is never imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from common.config import UserError
from common.encoders.hub_files import read_pretrained_json, read_pretrained_state
from common.encoders.pretrained import PretrainedRef, is_offline, loading, resolve_pretrained
from common.encoders.state_dict import load_state
from common.encoders.text.language_models.causal import add_lora
from projects.nv_embed.encoder.instructed import (
    InstructedEncoder,
    InstructionSpan,
    instructed_encoder,
)

RELEASED = "NVEmbedModel"
PARTS = {"embedding_model.": "model.", "latent_attention_model.": "pooler.layer."}
_COMPUTED = "rotary_emb.inv_freq"  # a buffer that old versions stored
_BIDIRECTIONAL = "bidir_"  # before the model type of the decoder


@dataclass(frozen=True)
class ReleasedConfig:
    """What a released ``config.json`` says about the encoder.

    Attributes:
        decoder: model type and fields of the decoder, for `AutoConfig.for_model`.
        num_latents: rows of the dictionary.
        heads: of the latent attention.
        dim_head: size of a head.
    """

    decoder: dict[str, Any]
    num_latents: int
    heads: int
    dim_head: int


def is_released(pretrained: str) -> bool:
    """Whether a ``pretrained:`` string names a checkpoint in the released layout.

    Raises:
        UserError: see `resolve_pretrained`.
    """
    return RELEASED in (
        read_pretrained_json(resolve_pretrained(pretrained)).get("architectures") or []
    )


def released_config(content: Mapping[str, Any], source: str) -> ReleasedConfig:
    """Read a released ``config.json``.

    Args:
        content: the file.
        source: its place, for messages.

    Raises:
        UserError: a field is missing, or says what no released checkpoint says.
    """
    try:
        text, pooler = dict(content["text_config"]), content["latent_attention_config"]
        kind = str(text["model_type"]).removeprefix(_BIDIRECTIONAL)
        widths = {int(text["hidden_size"]), int(pooler["hidden_dim"]), int(pooler["latent_dim"])}
        sizes = [int(pooler[k]) for k in ("num_latents_value", "num_cross_heads", "cross_dim_head")]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: config.json of an {RELEASED} lacks {error}") from error
    expected = {
        "padding_side": "right",
        "mask_type": "b",
        "add_eos": True,
        "is_mask_instruction": True,
    }
    other = [k for k, v in expected.items() if content.get(k, v) != v]
    if other or len(widths) > 1:
        what = other or [f"widths {sorted(widths)} of decoder and pooler"]
        raise UserError(f"{source}: config.json says {', '.join(what)} as no released model does")
    try:
        fields = type(AutoConfig.for_model(kind)).__annotations__.keys()
    except ValueError as error:
        raise UserError(f"{source}: decoder of the unknown kind {kind!r}") from error
    decoder = {k: v for k, v in text.items() if k in fields}
    decoder |= {k: text[k] for k in ("rope_theta", "rope_scaling") if text.get(k) is not None}
    return ReleasedConfig({**decoder, "model_type": kind}, *sizes)


def own_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors of a released checkpoint under the names that `InstructedEncoder` has for them.

    Args:
        state: name in the release -> tensor.
        source: where they come from, for messages.

    Raises:
        UserError: a tensor of neither part, or a part without tensors.

    >>> list(own_names({"embedding_model.norm.weight": 1, "latent_attention_model.latents": 2}, ""))
    ['model.norm.weight', 'pooler.layer.latents']
    """
    renamed: dict[str, Tensor] = {}
    strangers = []
    for name, tensor in state.items():
        part = next((p for p in PARTS if name.startswith(p)), None)
        if part is None:
            strangers.append(name)
        elif not name.endswith(_COMPUTED):
            renamed[PARTS[part] + name.removeprefix(part)] = tensor
    empty = [
        p for p, prefix in PARTS.items() if not any(name.startswith(prefix) for name in renamed)
    ]
    if strangers or empty:
        problems = [f"unexpected tensor {name}" for name in strangers[:3]]
        problems += [f"no tensor {part}*" for part in empty]
        raise UserError(f"{source} is not a checkpoint of an {RELEASED}: {'; '.join(problems)}")
    return renamed


def released_encoder(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    lora_rank: int | None = 16,
    lora_alpha: float = 32.0,
    lora_dropout: float = 0.0,
    lora_targets: str | list[str] = "all-linear",
    **options: Any,
) -> InstructedEncoder:
    """Build an encoder from a checkpoint in the released layout.

    Args:
        pretrained: folder or Hugging Face id, see `is_released`.
        config: must be None, the architecture is the checkpoint's.
        lora_rank: of new adapters on the released decoder; None: none, all weights are trained.
        lora_alpha: see `instructed_encoder`.
        lora_dropout: see `instructed_encoder`.
        lora_targets: see `instructed_encoder`.
        options: further ones of `instructed_encoder`; those of the pooler must be the checkpoint's.

    Raises:
        UserError: absent or unfitting weights, or a pooler of other settings.
    """
    ref = resolve_pretrained(pretrained)
    source = f"pretrained={pretrained!r}"
    if config is not None:
        raise UserError(f"{source} has its own architecture: leave model.config out")
    stored = released_config(read_pretrained_json(ref), source)
    _check_pooler(stored, options, source)
    encoder = instructed_encoder(
        "random", config=stored.decoder, lora_rank=None, **{"tokenizer": _tokenizer(ref), **options}
    )
    if torch.get_default_device().type != "meta":  # there, shapes alone
        load_state(encoder, own_names(read_pretrained_state(ref), source), source=source)
    if lora_rank is not None:
        add_lora(
            encoder.model,
            rank=lora_rank,
            alpha=lora_alpha,
            dropout=lora_dropout,
            targets=lora_targets,
        )
    return encoder


def load_released(
    folder: str, *, max_length: int = 512, span: InstructionSpan = "exact"
) -> InstructedEncoder:
    """A released checkpoint for inference: every setting is its own, in eval mode and float32.

    Args:
        folder: folder or Hugging Face id.
        max_length: tokens of a text.
        span: see `InstructedEncoder`; "released" is what its own ``encode`` masks.

    Raises:
        UserError: see `released_encoder`.
    """
    stored = released_config(read_pretrained_json(resolve_pretrained(folder)), folder)
    sizes: dict[str, Any] = {
        "num_latents": stored.num_latents,
        "heads": stored.heads,
        "dim_head": stored.dim_head,
    }
    encoder = released_encoder(folder, lora_rank=None, max_length=max_length, span=span, **sizes)
    return encoder.eval()


def _check_pooler(stored: ReleasedConfig, options: Mapping[str, Any], source: str) -> None:
    actual = {"pooling": "latent", "num_latents": 512, "heads": 8, "dim_head": None, **options}
    actual["dim_head"] = actual["dim_head"] or stored.decoder["hidden_size"]
    expected = {
        "pooling": "latent",
        "num_latents": stored.num_latents,
        "heads": stored.heads,
        "dim_head": stored.dim_head,
    }
    other = [f"model.{k}={v}" for k, v in expected.items() if actual[k] != v]
    if other:
        raise UserError(f"{source} was trained with another pooler: set {' '.join(other)}")


def _tokenizer(ref: PretrainedRef) -> Any:
    """From its own files: ``config.json`` names a model type that transformers does not know."""
    place = str(ref.path) if ref.path is not None else ref.name
    with loading(ref):
        return PreTrainedTokenizerFast.from_pretrained(
            place, local_files_only=ref.path is not None or is_offline()
        )
