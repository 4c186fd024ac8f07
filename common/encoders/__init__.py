"""Encoders: thin adapters from open_clip, timm, torchvision and transformers to (B, D)."""

from common.encoders.clip_text import ClipTextTransformer
from common.encoders.dual import DualEncoder, build_dual_encoder
from common.encoders.heads import MLPHead, linear_projection
from common.encoders.modes import evaluation_mode
from common.encoders.open_clip_dual import OpenClipDualEncoder, open_clip_dual_encoder
from common.encoders.pooling import POOLINGS, Pooling, first_token, last_token, mean_pool, pool
from common.encoders.pretrained import PretrainedRef, resolve_pretrained
from common.encoders.sentence import SentenceEncoder, sentence_encoder
from common.encoders.state_dict import load_state, load_state_dict_file, read_state_dict
from common.encoders.text import TextTower, load_tokenizer, load_transformer, text_tower
from common.encoders.tiny_tokenizer import tiny_tokenizer
from common.encoders.vision import ConvNet, ImageTower, timm_tower, torchvision_tower
from common.encoders.vit import QKNormViT

__all__ = [
    "POOLINGS",
    "ClipTextTransformer",
    "ConvNet",
    "DualEncoder",
    "ImageTower",
    "MLPHead",
    "OpenClipDualEncoder",
    "Pooling",
    "PretrainedRef",
    "QKNormViT",
    "SentenceEncoder",
    "TextTower",
    "build_dual_encoder",
    "evaluation_mode",
    "first_token",
    "last_token",
    "linear_projection",
    "load_state",
    "load_state_dict_file",
    "load_tokenizer",
    "load_transformer",
    "mean_pool",
    "open_clip_dual_encoder",
    "pool",
    "read_state_dict",
    "resolve_pretrained",
    "sentence_encoder",
    "text_tower",
    "timm_tower",
    "tiny_tokenizer",
    "torchvision_tower",
]
