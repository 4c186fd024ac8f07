"""An exported model: a folder of transformers with the prefix and the adapter alongside it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.encoders.state_dict import load_state, read_state_dict
from common.encoders.text.tower import quiet
from common.export.files import write_files, write_json, write_tensors
from projects.close.config import Config, ModelConfig
from projects.close.modality_gap import TextAdapter
from projects.close.module import CLOSE
from projects.close.network import build_language

SETTINGS, PREFIX = "close.json", "prefix.safetensors"


def export(cfg: Config, module: CLOSE, folder: Path) -> None:
    """A transformers folder for the language model, with prefix and dual encoder's name."""

    def write(new: Path) -> None:
        with quiet():
            module.language.model.save_pretrained(new)
            module.tokenizer.save_pretrained(new)

    write_files(folder, write)
    rest = {k: v for k, v in module.language.state_dict().items() if not k.startswith("model.")}
    parts = {"language": rest, "adapter": module.adapter.state_dict()}
    write_tensors(
        folder / PREFIX, {f"{p}.{k}": v for p, state in parts.items() for k, v in state.items()}
    )
    config = module.cfg
    settings = {
        "clip": config.model.clip,
        "dim": module.language.to_tokens.in_features,
        "num_tokens": config.model.num_tokens,
        "num_constants": config.model.num_constants,
        "num_beams": config.eval.num_beams,
        "max_new_tokens": config.eval.max_new_tokens,
        "max_context": config.data.max_context,
        "task": config.data.task,
        "adapter": module.adapter.kind,
        "noise": module.adapter.scale,
        "factor": module.adapter.factor,
    }
    write_json(folder / SETTINGS, settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """What an exported folder says of itself.

    Raises:
        UserError: not such a folder.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return {**settings, "clip": str(settings["clip"]), "dim": int(settings["dim"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported CLOSE model: {error!r}") from error


def load(cfg: Config, folder: Path) -> CLOSE:
    """The module of an exported folder, in evaluation mode.

    Its dual encoder is loaded when it is asked for.
    """
    settings = read_settings(folder)
    model = ModelConfig(
        clip=settings["clip"],
        pretrained=str(folder),
        num_tokens=settings["num_tokens"],
        num_constants=settings["num_constants"],
    )
    language, tokenizer = build_language(model, settings["dim"])
    state = read_state_dict(folder / PREFIX)
    names = {
        part: [k for k in state if k.startswith(f"{part}.")] for part in ("language", "adapter")
    }
    rest = {k.removeprefix("language."): state[k] for k in names["language"]}
    whole = (
        {**language.state_dict(), **rest} if rest else {}
    )  # the model's weights are in place already
    load_state(language, whole, source=str(folder / PREFIX))
    tensors = {k.removeprefix("adapter."): state[k] for k in names["adapter"]}
    adapter = TextAdapter(
        settings["adapter"], settings["noise"], factor=settings["factor"], **tensors
    )
    return CLOSE(cfg, language, tokenizer, None, adapter).eval()


def embed(cfg: Config, module: CLOSE) -> dict[str, Tensor]:
    """Logits of two fixed tokens for two fixed vectors, compared after export and reload."""
    device = module.language.to_tokens.weight.device
    dim = module.language.to_tokens.in_features
    vectors = torch.linspace(-2, 2, 2 * dim).sin().view(2, dim).to(device)
    labels = torch.full((2, 2), int(module.tokenizer.eos_token_id), device=device)
    with evaluation_mode(module):
        return {"logits": module.language(vectors, labels).float().cpu()}
