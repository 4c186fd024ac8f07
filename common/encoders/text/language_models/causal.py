"""Decoder-only language models: logits of the last layer, LoRA.

Source: Hu et al. 2021, "LoRA", arXiv 2106.09685.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError

ALL_LINEAR = "all-linear"  # peft's name for every linear layer of a model


def final_logits(model: Any, logits: Tensor) -> Tensor:
    """Logits as a causal language model gives them, from what its output layer does.

    Cohere scales them, Gemma bounds them softly, Granite divides them.

    Args:
        model: of transformers.
        logits: (..., V) of its output layer.
    """
    config = model.config.get_text_config()
    if (scale := getattr(model, "logit_scale", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scale
    return logits


def block_classes(model: Any) -> set[type[nn.Module]]:
    """Classes of a transformer's blocks, which FSDP wraps and checkpointing recomputes."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return {type(module) for module in model.modules() if type(module).__name__ in names}


# -- LoRA ----------------------------------------------------------------------------------------


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str | Sequence[str] = ALL_LINEAR,
) -> None:
    """Freeze a model and put low-rank adapters on its linear layers, in place, by the peft library.

    Args:
        model: its own weights keep no gradient.
        rank: r of the adapters.
        alpha: the product of the adapters is scaled by alpha / r.
        dropout: of the adapters' input.
        targets: "all-linear", or ends of the names of the adapted layers.

    Raises:
        UserError: peft is not installed, or no layer has such a name.
    """
    peft = require_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    model.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(f"LoRA targets {targets!r}: {str(error).splitlines()[0]}") from error


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights of their layers and remove them, in place."""
    _without_lora(model, merged=True)


def _without_lora(model: nn.Module, *, merged: bool) -> None:
    from peft.tuners.lora import LoraLayer

    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    for name, layer in layers:
        if merged:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def require_peft() -> Any:
    """The peft package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError("LoRA needs the peft package: run `make setup`") from error
    return peft


def remove_lora(model: nn.Module) -> None:
    """Take the adapters off, in place: what is left is the model that they were put on."""
    _without_lora(model, merged=False)
