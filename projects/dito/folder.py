"""An exported model: the network's safetensors and `dito.json` with its sizes and input."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import load_state_dict_file
from common.export.files import write_json, write_tensors
from projects.dito.config import Config, ModelConfig
from projects.dito.module import DITO
from projects.dito.network import (
    SETTINGS,
    DitoNetwork,
    build_network,
    read_settings,
    settings_of,
)

PROBES = ["a dog", "two red balls"]


def export(cfg: Config, module: DITO, folder: Path) -> None:
    """Weights, sizes, image size, templates and temperature.

    A stage of another run starts from it.
    """
    write_tensors(folder / "model.safetensors", module.network.state_dict())
    extra = {
        "image_size": cfg.data.image_size,
        "templates": cfg.eval.templates,
        "temp_det": cfg.score.temp_det,
    }
    write_json(folder / SETTINGS, settings_of(module.network) | extra)


def load_network(folder: Path) -> tuple[DitoNetwork, dict[str, Any]]:
    """The network of an exported folder in evaluation mode, and its settings.

    Raises:
        UserError: not such a folder, or other weights.
    """
    settings = read_settings(folder)
    network = build_network(ModelConfig(**settings["model"]), settings["rpn_convs"])
    if settings["vlm"]:
        network.keep_vlm()
    network.trained, network.base_names = settings["trained"], list(settings["base_names"])
    load_state_dict_file(folder / "model.safetensors", network)
    return network.eval(), settings


def load(cfg: Config, folder: Path) -> DITO:
    """The module of an exported folder, in evaluation mode."""
    network, _ = load_network(folder)
    return DITO(cfg, network, cfg.method.stages[-1]).eval()


def embed(cfg: Config, module: DITO) -> dict[str, Tensor]:
    """Vectors of a fixed image, two of its boxes and two texts.

    Compared after export and reload.
    """
    network, size = module.network, cfg.data.image_size
    device = network.log_temperature.device
    images = torch.linspace(-2, 2, 3 * size * size).sin().view(1, 3, size, size).to(device)
    boxes = [
        torch.tensor(
            [[0.0, 0.0, size, size], [0.2 * size, 0.1 * size, 0.7 * size, 0.9 * size]],
            device=device,
        )
    ]
    with evaluation_mode(network):
        vectors = {
            "image": network.image_vectors(images).float().cpu(),
            "regions": network.region_vectors(images, boxes).float().cpu(),
            "texts": network.text_vectors(network.tokenizer(PROBES).to(device)).float().cpu(),
        }
        if network.mask_head is not None:
            maps = network.pyramid(network.detector_map(images))
            vectors["masks"] = network.masks(maps, boxes).float().cpu()
        return vectors
