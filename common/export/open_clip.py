"""Write a dual encoder as a folder that open_clip loads under ``local-dir:<folder>``.

How the towers are exported depends on what open_clip 3 can express:

- `OpenClipDualEncoder`: as it is.
- `QKNormViT` + `ClipTextTransformer` with the same activation: open_clip's own towers; the bias of
  the patch embedding, which they lack, is added to the position table.
- the two with different activations (LaCLIP: GELU and QuickGELU): open_clip has one switch for
  both, so the image tower goes out as a timm model described in ``<folder>/image_trunk``; the
  config names that path. After moving the folder load it with `load_open_clip`, which corrects it.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image.vit import LN_EPS, QKNormViT
from common.encoders.image_text.clip_text import ClipTextTransformer
from common.encoders.image_text.dual import DualEncoder
from common.encoders.image_text.open_clip_dual import (
    CONFIG_FILE,
    TRUNK_DIR,
    WEIGHTS_FILE,
    OpenClipDualEncoder,
)
from common.export.files import write_atomic, write_json, write_tensors

_TIMM_NAMES = {  # timm's block -> open_clip's block
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.q_norm.": "attn.ln_q.",
    "attn.k_norm.": "attn.ln_k.",
    "attn.proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def save_open_clip(
    encoder: DualEncoder | OpenClipDualEncoder,
    folder: str | Path,
    *,
    log_scale: float | Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Export for ``open_clip.create_model_and_transforms("local-dir:<folder>")``.

    Writes ``open_clip_config.json``, ``open_clip_model.safetensors`` and, if the tokenizer can save
    itself, its files. Existing files of these names are replaced one by one, each atomically.

    Args:
        encoder: see the table of this module.
        folder: created if needed.
        log_scale: raw logit scale (the logarithm), as trained.
        mean: 3 channel means of the image normalisation the encoder was trained with.
        std: 3 standard deviations.
        interpolation: of the evaluation resize.
        resize_mode: "shortest", "longest" or "squash".
        dtype: of the stored weights; open_clip loads them into float32.

    Returns:
        The folder.

    Raises:
        UserError: towers, projections or a tokenizer that open_clip cannot express.
    """
    folder = Path(folder)
    if isinstance(encoder, OpenClipDualEncoder):
        config, state = copy.deepcopy(encoder.config), dict(encoder.model.state_dict())
        trunk = _repoint_trunk(config["vision_cfg"], folder)
    else:
        config, state, trunk = _express(encoder, folder)
    state["logit_scale"] = torch.as_tensor(log_scale).detach().reshape(())
    config["text_cfg"] = _with_tokenizer(config["text_cfg"], encoder.tokenizer, final(folder).name)
    preprocess = {
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    _save_tokenizer(encoder.tokenizer, folder, config["text_cfg"])
    if trunk is not None:
        write_json(folder / TRUNK_DIR / "config.json", trunk)
    write_tensors(folder / WEIGHTS_FILE, tensors)
    write_json(folder / CONFIG_FILE, {"model_cfg": config, "preprocess_cfg": preprocess})
    return folder


def load_open_clip(folder: str | Path) -> OpenClipDualEncoder:
    """Load an exported folder, in eval mode; works after the folder has moved.

    Raises:
        UserError: not an exported folder, or weights of another model.
    """
    return OpenClipDualEncoder.from_folder(folder).eval()


def _express(
    encoder: DualEncoder, folder: Path
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any] | None]:
    """Our towers as open_clip's: model config, state dict, and the timm config if one is needed."""
    image, text = encoder.image_tower, encoder.text_tower
    if not isinstance(image, QKNormViT) or not isinstance(text, ClipTextTransformer):
        raise UserError(
            f"open_clip cannot express {type(image).__name__} + {type(text).__name__}; train an "
            "OpenClipDualEncoder for that, or export with save_safetensors"
        )
    image_weight, text_weight = _matrix(encoder.image_proj), _matrix(encoder.text_proj)
    native = image.activation == text.activation
    trunk = None
    if native:
        vision_cfg, state = _native_image(image)
        state["visual.proj"] = image_weight.T
    else:
        trunk = _timm_config(image)
        vision_cfg = {
            "image_size": image.image_size,
            "timm_model_name": _trunk_name(folder),
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        }
        state = {f"visual.trunk.{name}": v for name, v in image.trunk.state_dict().items()}
        state["visual.head.proj.weight"] = image_weight
    state |= text.trunk.state_dict()
    state["text_projection"] = text_weight.T
    text_cfg = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.num_features,
        "heads": text.heads,
        "layers": text.layers,
        "mlp_ratio": text.mlp_ratio,
    }
    config = {
        "embed_dim": encoder.embed_dim,
        "quick_gelu": text.activation == "quick_gelu",
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    return config, state, trunk


def _native_image(tower: QKNormViT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    trunk = tower.trunk.state_dict()
    positions = trunk["pos_embed"][0].float().clone()
    positions[1:] += trunk["patch_embed.proj.bias"].float()  # open_clip's patch embedding has none
    state = {
        "visual.conv1.weight": trunk["patch_embed.proj.weight"],
        "visual.class_embedding": trunk["cls_token"][0, 0],
        "visual.positional_embedding": positions,
        "visual.ln_post.weight": trunk["norm.weight"],
        "visual.ln_post.bias": trunk["norm.bias"],
    }
    for name, tensor in trunk.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            old = next(key for key in _TIMM_NAMES if rest.startswith(key))
            new = rest.replace(old, _TIMM_NAMES[old], 1)
            state[f"visual.transformer.resblocks.{block}.{new}"] = tensor
    config = {
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "width": tower.num_features,
        "layers": tower.depth,
        "head_width": tower.num_features // tower.heads,
        "mlp_ratio": tower.mlp_ratio,
        "qk_norm": tower.qk_norm,
        "no_ln_pre": True,
        "norm_kwargs": {"eps": LN_EPS},
    }
    return config, state


def _timm_config(tower: QKNormViT) -> dict[str, Any]:
    if tower.activation != "gelu":
        raise UserError("open_clip cannot express a QuickGELU image tower with a GELU text tower")
    return {
        "architecture": "vit_base_patch16_224",  # a generic ViT; model_args set all its sizes
        "num_classes": 0,
        "model_args": {
            "img_size": tower.image_size,
            "patch_size": tower.patch_size,
            "embed_dim": tower.num_features,
            "depth": tower.depth,
            "num_heads": tower.heads,
            "mlp_ratio": tower.mlp_ratio,
            "qk_norm": tower.qk_norm,
        },
        "pretrained_cfg": {"input_size": [3, tower.image_size, tower.image_size]},
    }


def final(folder: Path) -> Path:
    """Final place of a folder: the engine fills ``export.tmp`` and renames it when complete.

    >>> final(Path("/runs/r/export.tmp/clip")).as_posix()
    '/runs/r/export/clip'
    """
    parts = list(folder.resolve().parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "export.tmp":
            parts[place] = "export"
            break
    return Path(*parts)


def _trunk_name(folder: Path) -> str:
    return f"local-dir:{final(folder) / TRUNK_DIR}"


def _repoint_trunk(vision_cfg: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Let a timm trunk of a loaded export live in the new folder; returns its description."""
    source = str(vision_cfg.get("timm_model_name", ""))
    if not source.startswith("local-dir:"):
        return None
    path = Path(source.removeprefix("local-dir:")) / "config.json"
    try:
        trunk: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}, which describes the image tower, is gone: {error}") from error
    vision_cfg["timm_model_name"] = _trunk_name(folder)
    return trunk


def _matrix(projection: nn.Module) -> Tensor:
    if not isinstance(projection, nn.Linear) or projection.bias is not None:
        raise UserError("open_clip needs bias-free linear projections (linear_projection)")
    return projection.weight.detach()


def _with_tokenizer(text_cfg: dict[str, Any], tokenizer: Any, name: str) -> dict[str, Any]:
    """The text config, naming a tokenizer that is not CLIP's own."""
    if getattr(tokenizer, "backend", None) is not None:  # of the tokenizers library
        return text_cfg | {"hf_tokenizer_name": name, "tokenizer_kwargs": {"clean": "lower"}}
    if hasattr(tokenizer, "save_pretrained"):  # open_clip's HFTokenizer
        return {"hf_tokenizer_name": name} | text_cfg
    if int(text_cfg.get("vocab_size", 49408)) != 49408:
        raise UserError(
            "the text tower does not use CLIP's vocabulary, and its tokenizer cannot be saved: "
            "give the encoder one that can (BpeTokenizer)"
        )
    return dict(text_cfg)


def _save_tokenizer(tokenizer: Any, folder: Path, text_cfg: dict[str, Any]) -> None:
    backend = getattr(tokenizer, "backend", None)
    if backend is not None:
        write_atomic(folder / "tokenizer.json", lambda file: backend.save(str(file)))
        fields = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": backend.padding["pad_token"],
            "model_max_length": text_cfg["context_length"],
        }
        write_json(folder / "tokenizer_config.json", fields)
    elif hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
