"""Exports: folders that other libraries load."""

from common.export.open_clip import load_open_clip, save_open_clip
from common.export.safetensors import load_safetensors, save_safetensors
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)
from common.export.transformers import load_transformers, save_transformers

__all__ = [
    "load_open_clip",
    "load_safetensors",
    "load_sentence_encoder",
    "load_sentence_transformers",
    "load_transformers",
    "save_open_clip",
    "save_safetensors",
    "save_sentence_encoder",
    "save_sentence_transformers",
    "save_transformers",
]
