"""Encoders that mine hard negatives: exports, released checkpoints, decoders such as E5-mistral.

Source: Lee et al. 2024, "NV-Embed", section 4.1 (the teacher is E5-mistral-7b-instruct), arXiv
2405.17428.
"""

import json
from pathlib import Path
from typing import Any

import torch

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained
from projects.nv_embed.config import ModelConfig
from projects.nv_embed.encoder.exported import SETTINGS
from projects.nv_embed.encoder.instructed import InstructedEncoder, instructed_encoder
from projects.nv_embed.released import is_released
from projects.nv_embed.stages import load_encoder

_POOLINGS = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}
_MODULES = ("Transformer", "Pooling", "Normalize")


def load_teacher(place: str, model: ModelConfig) -> InstructedEncoder:
    """The encoder of a folder, in evaluation mode.

    Args:
        place: an exported folder, a checkpoint in NV-Embed's released layout, or a decoder in the
            layout of sentence-transformers whose states are averaged or whose last one is taken
            (E5-mistral, SFR-Embedding). A decoder keeps its causal mask; queries are "Instruct:
            ...", as E5-mistral's are, documents have no prefix.
        model: length of texts, attention and dtype of the weights.

    Raises:
        UserError: none of these, or absent or unreadable files.
    """
    ref = resolve_pretrained(place)
    if is_released(place) or (ref.path is not None and (ref.path / SETTINGS).is_file()):
        return load_encoder(place, model)
    if ref.path is None:
        raise UserError(
            f"data.mining.encoder={place} is neither a released checkpoint nor a folder: download"
            " the teacher and name its folder"
        )
    pooling, with_prompt = _pooling(ref.path)
    encoder = instructed_encoder(
        place,
        pooling=pooling,
        causal=True,
        lora_rank=None,
        max_length=model.max_length,
        span="pooled" if with_prompt else "exact",
        attention=model.attention,
        dtype=getattr(torch, model.weights),
    )
    return encoder.requires_grad_(False).eval()


def _pooling(folder: Path) -> tuple[Any, bool]:
    """How the folder pools its states, and whether the instruction's are among them."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        kinds = {str(part["type"]).rsplit(".", 1)[-1]: str(part["path"]) for part in modules}
        options = json.loads((folder / kinds["Pooling"] / "config.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} does not say how it makes a vector of its states: it is no exported encoder,"
            " no released checkpoint, and has no modules.json with a Pooling of"
            f" sentence-transformers ({error!r})"
        ) from error
    if others := sorted(set(kinds) - set(_MODULES)):
        raise UserError(f"{folder}: a teacher with {', '.join(others)} on top is not supported")
    on = [name for name, value in options.items() if name.startswith("pooling_mode_") and value]
    if len(on) != 1 or on[0] not in _POOLINGS:
        raise UserError(
            f"{folder}: {on or 'no pooling'}; a teacher has one of {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[on[0]], bool(options.get("include_prompt", True))
