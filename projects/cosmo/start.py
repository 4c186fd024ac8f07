"""The exported first stage with which the second one (instruction tuning) begins."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from common.config import UserError
from common.encoders.state_dict import load_state, read_state_dict
from common.engine.experiment import Requirement
from projects.cosmo.config import Config
from projects.cosmo.module import COSMO

SETTINGS, WEIGHTS = "cosmo.json", "cosmo.safetensors"
ROWS = "language.rows"
# of the model section: what may differ from the model that training begins with
FREE = ("init_from", "trained_rows", "language_dtype")


def read_settings(folder: Path) -> dict[str, Any]:
    """What an exported folder says of itself.

    Raises:
        UserError: not such a folder.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return {
            name: settings[name] for name in ("model", "method", "normalise", "max_caption", "eval")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported COSMO model: {error!r}") from error


def begin_with(cfg: Config, module: COSMO) -> None:
    """Put the trained tensors of ``model.init_from`` into a module that is not trained yet.

    The rows of tokens may be fewer there: after pre-training those of the new tokens, in
    instruction tuning all.

    Raises:
        UserError: no folder where the second stage needs one, or a model of another form.
    """
    if cfg.model.init_from is None:
        if second_stage(cfg):
            raise UserError(
                "instruction tuning continues a pre-trained model: set model.init_from, a folder"
                " written by make export"
            )
        return
    folder = Path(cfg.model.init_from).expanduser()
    stored, model = read_settings(folder), dataclasses.asdict(cfg.model)
    differ = [f"model.{k}" for k in model if k not in FREE and model[k] != stored["model"].get(k)]
    if stored["normalise"] != cfg.data.normalise:
        differ.append("data.normalise")
    if stored["model"].get("trained_rows") == "all" != model["trained_rows"]:
        differ.append("model.trained_rows")
    if differ:
        raise UserError(f"{folder} was trained with another {', '.join(differ)}: set the same here")
    network, state = module.network, read_state_dict(folder / WEIGHTS)
    rows = state.pop(ROWS, None)
    if rows is None:
        raise UserError(f"{folder / WEIGHTS} has no {ROWS}: export the model again")
    source = str(folder / WEIGHTS)
    load_state(network, {**state, ROWS: network.language.rows.detach()}, source=source)
    try:
        network.language.take_rows(rows)
    except ValueError as error:
        raise UserError(f"{source} is of another language model: {error}") from error


def second_stage(cfg: Config) -> bool:
    """Whether nothing but instructions is trained on."""
    return cfg.data.source == "shards" and list(cfg.data.kinds) == ["instruction"]


def start_requirement(cfg: Config) -> tuple[Requirement, ...]:
    """The folder of ``model.init_from``, for `make check`."""
    folder = cfg.model.init_from
    if folder is None and not second_stage(cfg):
        return ()
    here = folder is not None and (Path(folder).expanduser() / SETTINGS).is_file()
    hint = "make export PROJECT=cosmo of a pre-trained model, then model.init_from=<its folder>"
    return (Requirement("pre-trained model", folder or "model.init_from", here, hint),)
