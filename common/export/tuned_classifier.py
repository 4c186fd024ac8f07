"""A tuned text classifier as a folder: encoder for transformers, adapter for peft, head.

| file | content |
|---|---|
| ``config.json``, ``model.safetensors``, tokenizer | the encoder, for ``AutoModel`` |
| ``adapter/`` | LoRA or prefix, for ``PeftModel.from_pretrained(encoder, "<folder>/adapter")`` |
| ``classifier_head.safetensors``, ``classifier.json`` | linear head; its settings |
"""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file, read_state_dict
from common.encoders.text.language_models.causal import merge_lora
from common.encoders.text.tower import quiet
from common.encoders.text.tuned.classifier import TextClassifier, Tuning, text_classifier
from common.export.files import write_files, write_json, write_tensors

SETTINGS, HEAD, ADAPTER = "classifier.json", "classifier_head.safetensors", "adapter"
_PEFT = "base_model.model."  # what peft puts before the names of a model's parts


def save_classifier(classifier: TextClassifier, folder: str | Path, *, merge: bool = False) -> Path:
    """Write encoder, adapter, head and settings; the classifier does not change.

    Args:
        classifier: in any tuning.
        folder: created if needed; other files in it stay.
        merge: LoRA is added to the encoder's weights, so that no adapter is left.

    Returns:
        The folder.
    """
    tuning = classifier.tuning
    lora = tuning.kind == "lora"
    backbone: Any = copy.deepcopy(classifier.backbone) if lora else classifier.backbone
    adapter: dict[str, Tensor] = {}
    if lora:
        adapter = lora_tensors(backbone)
        if merge:
            merge_lora(backbone)
        else:
            remove_lora(backbone)

    def write(new: Path) -> None:
        with quiet():
            backbone.save_pretrained(new)
        classifier.tokenizer.save_pretrained(new)

    folder = write_files(Path(folder), write)
    kept = replace(tuning, kind="full") if merge and lora else tuning
    if kept.kind == "prefix" and classifier.prefix is not None:
        kept = replace(kept, projection_dim=None)
        adapter = {"prompt_embeddings": classifier.prefix.table().cpu()}
        _write_adapter(folder, classifier.prefix.peft_config(stored=True), adapter)
    elif kept.kind == "lora":
        _write_adapter(folder, _lora_config(tuning), adapter)
    write_tensors(folder / HEAD, classifier.head.state_dict())
    write_json(
        folder / SETTINGS,
        {
            "classes": list(classifier.classes),
            "pooling": classifier.pooling,
            "max_length": classifier.max_length,
            "head_dropout": classifier.dropout.p,
            "tuning": asdict(kept),
        },
    )
    return folder


def load_classifier(folder: str | Path) -> TextClassifier:
    """The classifier of such a folder, in evaluation mode.

    Raises:
        UserError: no such folder, or files that are damaged or do not fit.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / SETTINGS).read_text("utf-8"))
        tuning = Tuning(**{**stored["tuning"], "targets": tuple(stored["tuning"]["targets"])})
        options = {name: stored[name] for name in ("pooling", "max_length", "head_dropout")}
        classes = stored["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not an exported classifier, or is damaged: {error}"
        ) from error
    classifier = text_classifier(str(folder), classes, tuning, **options)
    load_state_dict_file(folder / HEAD, classifier.head)
    if classifier.prefix is not None or tuning.kind == "lora":
        _read_adapter(folder / ADAPTER / "adapter_model.safetensors", classifier)
    return classifier.eval()


def lora_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters of a model under peft's names."""
    tensors = {}
    for name, value in model.state_dict().items():
        if ".lora_A." in name or ".lora_B." in name:
            tensors[_PEFT + name.replace(".default.", ".")] = value.detach().cpu().contiguous()
    return tensors


def remove_lora(model: nn.Module) -> None:
    """Take the adapters off their layers, in place: the model is as it was before them."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def _lora_config(tuning: Tuning) -> Any:
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        inference_mode=True,
        r=tuning.rank,
        lora_alpha=cast(int, tuning.alpha),
        lora_dropout=tuning.lora_dropout,
        target_modules=list(tuning.targets),
    )


def _write_adapter(folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    place = folder / ADAPTER
    place.mkdir(exist_ok=True)
    config.save_pretrained(str(place))
    write_tensors(place / "adapter_model.safetensors", tensors)


def _read_adapter(path: Path, classifier: TextClassifier) -> None:
    tensors = read_state_dict(path)
    with torch.no_grad():
        if classifier.prefix is not None:
            parameters = {"prompt_embeddings": classifier.prefix.encoder.embedding.weight}
        else:
            named = classifier.backbone.named_parameters()
            parameters = {
                _PEFT + name.replace(".default.", "."): p for name, p in named if ".lora_" in name
            }
        if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in tensors.items()}:
            raise UserError(f"{path} belongs to another encoder or tuning")
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
