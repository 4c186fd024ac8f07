"""An exported model: trained tensors, tokenizer and the names of the frozen towers."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from common.config import load as load_config
from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import load_state, read_state_dict
from common.export.files import write_files, write_json, write_tensors
from projects.cosmo.config import Config
from projects.cosmo.module import COSMO
from projects.cosmo.stages import build_module
from projects.cosmo.start import SETTINGS, WEIGHTS, read_settings
from projects.cosmo.visual_language.patch_tokens import PatchTower

EVAL = ("num_beams", "length_penalty", "max_new_tokens", "vqa_tokens")


def export(cfg: Config, module: COSMO, folder: Path) -> None:
    """Trained tensors with new tokens' rows, tokenizer, config of networks and prompts."""
    write_files(folder, lambda new: module.tokenizer.save_pretrained(new))
    write_tensors(folder / WEIGHTS, module.network.state_dict())
    config = module.cfg
    settings = {
        "model": dataclasses.asdict(config.model) | {"init_from": None},
        "method": dataclasses.asdict(config.method),
        "normalise": config.data.normalise,
        "max_caption": config.data.max_caption,
        "eval": {name: getattr(config.eval, name) for name in EVAL},
    }
    write_json(folder / SETTINGS, settings)


def config_of(folder: Path, base: Config | None = None) -> Config:
    """Config of an exported model: its networks and prompts, else `base` (None: ``smoke``)."""
    settings = read_settings(folder)
    words = [f"{part}={json.dumps(settings[part])}" for part in ("model", "method")]
    words += [f"eval.{name}={json.dumps(value)}" for name, value in settings["eval"].items()]
    words += [
        f"data.normalise={settings['normalise']}",
        f"data.max_caption={settings['max_caption']}",
    ]
    stored = load_config(Config, "cosmo", "smoke", words)
    if base is None:
        return stored
    data = dataclasses.replace(
        base.data, normalise=settings["normalise"], max_caption=settings["max_caption"]
    )
    return dataclasses.replace(base, model=stored.model, method=stored.method, data=data)


def load(cfg: Config, folder: Path) -> COSMO:
    """The module of an exported folder, in evaluation mode, with its towers."""
    whole = config_of(folder, cfg)
    module = build_module(whole, PatchTower(whole.model.vision))
    load_state(module.network, read_state_dict(folder / WEIGHTS), source=str(folder / WEIGHTS))
    return module.eval()


def embed(cfg: Config, module: COSMO) -> dict[str, Tensor]:
    """Logits and vectors of two fixed texts and pictures, compared after export and reload."""
    network = module.network
    device = next(network.parameters()).device
    dim = network.resampler.latents.shape[1]
    patches = torch.linspace(-2, 2, 2 * 3 * dim).sin().view(2, 1, 1, 3, dim).to(device)
    token = network.language.media_token
    ids = torch.tensor([[1, token, 7, 8], [1, token, 9, 9]], device=device)
    with evaluation_mode(module):
        parts = network(patches, ids, torch.ones_like(ids))
    outputs = {"logits": parts.logits, "visual": parts.visual, "text": parts.text}
    return {name: value.float().cpu() for name, value in outputs.items() if value is not None}
