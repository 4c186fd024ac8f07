"""Exports: folders that other libraries load."""

from common.export.open_clip import load_open_clip, save_open_clip
from common.export.safetensors import load_safetensors, save_safetensors

__all__ = ["load_open_clip", "load_safetensors", "save_open_clip", "save_safetensors"]
