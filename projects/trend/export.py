"""The transferred part alone: the encoder as safetensors, with OpenPCDet's names where it has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.config import UserError
from common.encoders.lidar.voxel_backbone import build_voxel_encoder
from common.encoders.state_dict import load_state_dict_file
from common.export.safetensors import load_safetensors, save_safetensors


def export_backbone(encoder: nn.Module, options: Mapping[str, Any], folder: Path) -> None:
    """Write ``model.safetensors`` and the encoder's options.

    Parameters of voxel_res_8x are called and laid out as OpenPCDet's ``backbone_3d`` (spconv 2), so
    ``detector.backbone_3d.load_state_dict(tensors, strict=False)`` misses ``conv_out`` alone.
    """
    save_safetensors(encoder, folder, options)


def open_backbone(folder: str | Path) -> Any:
    """An exported encoder in evaluation mode: (points, owner, batch size) -> volume.

    Raises:
        UserError: not an exported backbone.
    """
    return load_safetensors(folder, build_voxel_encoder)


def load_backbone(folder: str, network: nn.Module) -> None:
    """Fill a network's encoder from an exported backbone, also one trained on another set.

    Raises:
        UserError: the folder is missing, or the encoders differ.
    """
    path = Path(folder).expanduser() / "model.safetensors"
    if not path.is_file():
        raise UserError(
            f"finetune.encoder_weights: {path} does not exist; give the folder export/backbone of a run"
        )
    load_state_dict_file(path, network.encoder)  # type: ignore[arg-type]
