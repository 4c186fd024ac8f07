"""Decoder-only language models as encoders: attention direction, EOS, LoRA.

Source: Lee et al. 2024, "NV-Embed", section 3.1, arXiv 2405.17428 (causal mask removed);
Hu et al. 2021, "LoRA", arXiv 2106.09685.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.modes import evaluation_mode

ALL_LINEAR = "all-linear"  # peft's name for every linear layer of a model
_PROBE_TOKENS = 4


def set_causal(model: Any, causal: bool) -> None:
    """Choose the direction of attention of a decoder, and make sure that it took effect.

    Bidirectional attention leaves nothing but the padding mask (a sliding window of a model without
    other kinds of layers is removed as well); the setting is part of the model's config and so of
    what `save_pretrained` writes. The key-value cache is switched off in both cases.

    Args:
        model: a transformer of transformers without head.
        causal: False removes the causal mask.

    Raises:
        UserError: the first state of a probe does (not) react to its last token, so this
            architecture does not honour the setting.
    """
    config = model.config
    config.is_causal, config.use_cache = causal, False
    for module in model.modules():
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = causal
    windowed = getattr(config, "sliding_window", None) is not None
    if not causal and windowed and getattr(config, "layer_types", None) is None:
        config.sliding_window = None
    if next(model.parameters()).is_meta:
        return  # there is nothing to probe
    if looks_ahead(model) == causal:
        wanted = "causal" if causal else "bidirectional"
        raise UserError(
            f"{type(model).__name__} does not become {wanted} with attention "
            f"{config._attn_implementation!r}; try another model.attention or architecture"
        )


def looks_ahead(model: Any) -> bool:
    """Whether the state of a first token depends on the last one (no padding involved)."""
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(2 * _PROBE_TOKENS, device=embedding.device) % embedding.shape[0]
    ids = ids.reshape(2, -1)
    ids[1, :-1] = ids[0, :-1]
    with evaluation_mode(model):
        first = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return not torch.equal(first[0], first[1])


def final_logits(model: Any, found: Tensor) -> Tensor:
    """Logits as a causal language model gives them, from what its output layer does.

    Cohere scales them, Gemma bounds them softly, Granite divides them.

    Args:
        model: of transformers.
        found: (..., V) of its output layer.
    """
    config = model.config.get_text_config()
    if (scale := getattr(model, "logit_scale", None)) is not None:
        found = found * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        found = cap * torch.tanh(found / cap)
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        found = found / scale
    return found


def append_eos(tokenizer: Any) -> None:
    """Let a fast tokenizer end every text with EOS (and begin it with BOS if it has one).

    The ending is part of the tokenizer's template: truncation counts it and never cuts it off, and
    saved tokenizers keep it. Padding goes to the right; a missing padding token becomes EOS. A
    tokenizer that ends its texts with a special token already is left as it is.

    Raises:
        UserError: a tokenizer without EOS token, or one that is not a fast one.
    """
    tokenizer.padding_side = "right"
    if tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids:
        ended = True
    else:
        ended = False
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has no EOS token to end a text with; set one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if ended:
        return
    from tokenizers.processors import TemplateProcessing

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("only fast tokenizers can be told to end texts with EOS")
    used = [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]
    template = [tokenizer.bos_token] if tokenizer.bos_token else []
    template += ["$A", tokenizer.eos_token]
    backend.post_processor = TemplateProcessing(
        single=" ".join(template),
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in dict.fromkeys(used)],
    )


def block_classes(model: Any) -> set[type[nn.Module]]:
    """Classes of the repeated blocks of a transformer: what FSDP wraps and checkpointing recomputes."""
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
    peft = _peft()
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


def remove_lora(model: nn.Module) -> None:
    """Take the adapters off, in place: what is left is the model that they were put on."""
    _without_lora(model, merged=False)


def _without_lora(model: nn.Module, *, merged: bool) -> None:
    from peft.tuners.lora import LoraLayer

    found = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    for name, layer in found:
        if merged:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


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

    peft = _peft()
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

    peft = _peft()
    try:
        config = peft.PeftConfig.from_pretrained(str(folder), local_files_only=True)
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is no folder of adapters (adapter_config.json, adapter_model.safetensors):"
            f" {error}"
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


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError("LoRA needs the peft package: run `make setup`") from error
    return peft
