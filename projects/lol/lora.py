"""LoRA adapters that are switched, saved and loaded."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from common.config import UserError
from common.encoders.text.language_models.causal import require_peft


@contextmanager
def lora_switched(model: nn.Module, on: bool) -> Iterator[None]:
    """Passes with or without the adapters of a model, whose switch is put back after.

    Without them it is the model that they were put on, bit by bit.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    before = [layer.disable_adapters for layer in layers]
    # the flag alone: `enable_adapters` would switch gradients of the adapters as well
    for layer in layers:
        layer._disable_adapters = not on
    try:
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off


def save_lora(model: Any, folder: Path, base: str) -> None:
    """Write the adapters of a model as peft's own folder, which `PeftModel.from_pretrained` loads.

    Args:
        model: with adapters by `add_lora`.
        folder: made if missing.
        base: name of the model that they belong to, for the reader of the folder.
    """
    from safetensors.torch import save_file

    peft = require_peft()
    weights = peft.get_peft_model_state_dict(model)
    config = model.peft_config["default"]
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{key}": value.contiguous() for key, value in weights.items()}
    save_file(named, str(folder / "adapter_model.safetensors"), {"format": "pt"})
    written = copy.copy(config)
    written.base_model_name_or_path, written.task_type = base, "CAUSAL_LM"
    written.inference_mode = True
    written.save_pretrained(str(folder))


def load_lora(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a peft folder on a model, in place, frozen.

    Raises:
        UserError: no such folder, adapters of another kind or of another model.
    """
    from safetensors.torch import load_file

    peft = require_peft()
    try:
        config = peft.PeftConfig.from_pretrained(str(folder), local_files_only=True)
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} has no adapters (adapter_config.json, adapter_model.safetensors): {error}"
        ) from error
    if config.peft_type != "LORA":
        raise UserError(f"{folder}: only LoRA adapters are read, these are {config.peft_type}")
    model.requires_grad_(False)
    own = {key.removeprefix("base_model.model."): value for key, value in weights.items()}
    try:
        peft.inject_adapter_in_model(config, model)
        result = peft.set_peft_model_state_dict(model, own)
    except (ValueError, RuntimeError) as error:  # no such layers; other sizes
        raise UserError(
            f"{folder} does not fit this model, take the one that it was trained on: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    lost = [key for key in result.missing_keys if "lora_" in key]
    if lost or result.unexpected_keys:
        raise UserError(
            f"{folder} does not fit this model: {(lost or result.unexpected_keys)[0]} has no"
            " partner"
        )
    model.requires_grad_(False)
