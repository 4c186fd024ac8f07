"""A sentence encoder as a plain folder of the transformers library, and back.

``AutoModel`` and ``AutoTokenizer`` load the folder; ``sentence_encoder.json`` alongside the weights
says how texts become embeddings. A [CLS] head becomes the model's own pooler, as in SimCSE's
released models, so that ``pooler_output`` is the state after the head.
"""

import json
from pathlib import Path

import torch
from torch import nn

from common.config import UserError
from common.encoders.state_dict import load_state_dict_file
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tower import load_tokenizer, quiet, text_tower
from common.export.files import write_files, write_json

SETTINGS = "sentence_encoder.json"
_POOLER = "pooler.dense."


def save_transformers(encoder: SentenceEncoder, folder: str | Path) -> Path:
    """Write model, tokenizer and ``sentence_encoder.json``; any pooling.

    A train-only head of an architecture without pooler is left out, it plays no part in encoding.

    Args:
        encoder: its weights are written in their dtype.
        folder: created if needed; other files in it stay.

    Returns:
        The folder.

    Raises:
        UserError: the head acts in encoding and the architecture has no pooler that can hold it.
    """
    tower = encoder.tower
    pooling, only_train = tower.pooling, tower.mlp_only_train
    head = None if tower.cls_head is None else tower.cls_head[0]
    if head is not None and not _has_pooler(tower.model, head):
        if not only_train:
            raise UserError(
                f"{type(tower.model).__name__} has no pooler that could hold the [CLS] head; use "
                "the sentence-transformers export"
            )
        head, pooling, only_train = None, "cls_before_pooler", False
    folder = Path(folder)
    write_files(folder, lambda new: save_model(encoder, new, head))
    settings = {
        "pooling": pooling,
        "mlp_only_train": only_train,
        "max_length": encoder.max_length,
        "normalize": encoder.normalize,
        "template": encoder.template,
    }
    write_json(folder / SETTINGS, settings)
    return folder


def load_transformers(folder: str | Path) -> SentenceEncoder:
    """Build the encoder that `save_transformers` wrote, in eval mode and float32.

    Raises:
        UserError: not such a folder, or weights that do not fill the model.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / SETTINGS).read_text("utf-8"))
        pooling, only_train = settings["pooling"], bool(settings["mlp_only_train"])
        max_length, normalize = settings["max_length"], bool(settings["normalize"])
        template = settings.get("template")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported sentence encoder: {error!r}") from error
    tokenizer = load_tokenizer(str(folder))
    try:
        tower = text_tower(
            str(folder),
            pooling,
            mlp_only_train=only_train,
            mask_token_id=tokenizer.mask_token_id,
        )
    except ValueError as error:
        raise UserError(f"{folder / SETTINGS}: {error}") from error
    if tower.cls_head is not None:
        load_state_dict_file(folder / "model.safetensors", tower.cls_head[0], prefix=_POOLER)
    return SentenceEncoder(
        tower, tokenizer, max_length=max_length, normalize=normalize, template=template
    ).eval()


def save_model(encoder: SentenceEncoder, folder: Path, head: nn.Module | None = None) -> None:
    """Write transformer and tokenizer files into an existing folder.

    Args:
        encoder: what is written.
        folder: existing.
        head: linear layer that is stored as the model's pooler.
    """
    model = encoder.tower.model
    if head is not None:
        pooler = nn.Module()
        pooler.dense = head
        model.pooler = pooler
    try:
        with quiet():
            model.save_pretrained(folder)
    finally:
        if head is not None:
            model.pooler = None
    encoder.tokenizer.save_pretrained(folder)


def _has_pooler(model: nn.Module, head: nn.Module) -> bool:
    with torch.device("meta"):
        fresh = type(model)(model.config)
    shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    return all(shapes.get(_POOLER + k) == tensor.shape for k, tensor in head.state_dict().items())
