"""What is written and read again: the transferred encoder, the forecaster, all weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.export.safetensors import load_safetensors, save_safetensors
from projects.trend.config import Config
from projects.trend.encoders.voxel_backbone import build_voxel_encoder
from projects.trend.finetune import Finetune, last_module
from projects.trend.module import Trend
from projects.trend.networks import encoder_options, network_options


def export(cfg: Config, module: Trend | Finetune, folder: Path) -> None:
    """Write the folders ``backbone``, ``network`` (which forecasts) and ``all``."""
    export_backbone(module.network.encoder, encoder_options(cfg), folder / "backbone")
    save_safetensors(module.network, folder / "network", network_options(cfg))
    save_safetensors(module, folder / "all")


def load_export(cfg: Config, folder: Path) -> Trend | Finetune:
    """The last stage's module from what `export` wrote."""
    module = last_module(cfg)
    load_state_dict_file(folder / "all" / "model.safetensors", module)
    return module


def embed(cfg: Config, module: Trend | Finetune) -> dict[str, Tensor]:
    """Volume and forecast of a made-up scan, compared after export and reload."""
    network = module.network
    device, grid = next(network.parameters()).device, network.encoder.grid
    steps = torch.linspace(-9, 9, 200 * (3 + cfg.data.num_features), device=device)
    points = steps.sin().view(200, -1)
    points[:, :3] *= 0.9 * min(abs(c) for c in (*grid.low, *grid.high))
    volume = network.encode(points, torch.zeros(200, dtype=torch.long, device=device), 1)
    directions = nn.functional.normalize(points[:20, :3], dim=1)
    ranges, intensity = network.forecast(
        points, points.new_tensor([[1.0, 0.0, 0.1]]), points.new_zeros(3), directions, 0.5
    )
    outputs = {"volume": volume, "ranges": ranges, "intensity": intensity}
    return {name: value.float().cpu() for name, value in outputs.items()}


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
            f"finetune.encoder_weights: {path} does not exist; give the folder export/backbone of"
            " a run"
        )
    load_state_dict_file(path, network.encoder)  # type: ignore[arg-type]
