"""A dialogue encoder as a plain folder of transformers, and back.

``AutoModel`` and ``AutoTokenizer`` load the folder. The tables of roles and turns become the token
types of an ordinary BERT (type = role * T + turn - 1), positions are shifted by one behind a zero
row for [CLS], and the row of [CLS] makes up for the type that BERT adds to it. So a request of a
user is ``model(**tokenizer(text))``, and the state of [CLS] is its sentence vector.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from common.config import UserError
from common.encoders.state_dict import read_state_dict
from common.encoders.text.tower import quiet
from common.export.files import write_files, write_json, write_tensors
from projects.space2.dialog_encoder import NUM_ROLES, DialogEncoder, table
from projects.space2.dialogs.encoding import SYSTEM_MARKS, USER, USER_MARKS

SETTINGS, TABLES = "dialog.json", "dialog.safetensors"


def as_bert(encoder: DialogEncoder) -> BertModel:
    """A BERT with the encoder's outputs, see above; a copy, in eval mode."""
    embeddings, config = encoder.embeddings, copy.deepcopy(encoder.backbone.config)
    role, turn = embeddings.role_embeddings.weight, embeddings.turn_embeddings.weight[1:]
    types = (role[:, None] + turn[None]).reshape(-1, role.shape[1])
    config.type_vocab_size = len(types)
    config.max_position_embeddings = len(embeddings.position_embeddings.weight) + 1
    assert isinstance(config, BertConfig)
    model: Any = BertModel(config, add_pooling_layer=False)
    model.to(role.dtype)
    new = model.embeddings
    with torch.no_grad():
        new.word_embeddings.weight.copy_(embeddings.word_embeddings.weight)
        new.word_embeddings.weight[encoder.cls_id] -= types[0]
        new.position_embeddings.weight[0] = 0
        new.position_embeddings.weight[1:] = embeddings.position_embeddings.weight
        new.token_type_embeddings.weight.copy_(types)
        new.LayerNorm.load_state_dict(embeddings.LayerNorm.state_dict())
    model.encoder.load_state_dict(encoder.backbone.encoder.state_dict())
    bert: BertModel = model.eval()
    return bert


def bert_inputs(inputs: dict[str, Tensor], cls_id: int, num_turns: int) -> dict[str, Tensor]:
    """What that BERT takes in place of the encoder's inputs, (B, 1 + L) each.

    Args:
        inputs: see `projects.space2.dialog_encoder.DialogEncoder.forward`.
        cls_id: id of [CLS].
        num_turns: rows of the turn table, padding included.
    """
    front = inputs["input_ids"].new_zeros(len(inputs["input_ids"]), 1)
    types = inputs["role_ids"] * (num_turns - 1) + (inputs["turn_ids"] - 1).clamp(min=0)
    return {
        "input_ids": torch.cat([front + cls_id, inputs["input_ids"]], 1),
        "position_ids": torch.cat([front, inputs["position_ids"] + 1], 1),
        "token_type_ids": torch.cat([front, types], 1),
        "attention_mask": torch.cat([front + 1, inputs["attention_mask"]], 1),
    }


def save_dialog_encoder(
    encoder: DialogEncoder,
    tokenizer: Any,
    folder: str | Path,
    settings: dict[str, Any],
    parts: dict[str, nn.Module] | None = None,
) -> Path:
    """Write model, tokenizer, settings, and what else a project's network has.

    Args:
        encoder: its weights are written in their dtype.
        tokenizer: a fast one with the marks of utterances.
        folder: created if needed; other files in it stay.
        settings: plain values for ``dialog.json``.
        parts: further modules by name; their tensors go to ``dialog.safetensors``.

    Returns:
        The folder.
    """
    embeddings = encoder.embeddings

    def write(new: Path) -> None:
        with quiet():
            as_bert(encoder).save_pretrained(new)
        _with_template(tokenizer).save_pretrained(new)

    folder = write_files(Path(folder), write)
    tensors = {
        "role": embeddings.role_embeddings.weight,
        "turn": embeddings.turn_embeddings.weight,
        "cls": embeddings.word_embeddings.weight[encoder.cls_id],
    }
    for name, part in (parts or {}).items():
        tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    write_tensors(folder / TABLES, tensors)
    write_json(folder / SETTINGS, settings)
    return folder


def load_dialog_encoder(
    folder: str | Path, attention: str = "auto"
) -> tuple[DialogEncoder, Any, dict[str, Any], dict[str, Tensor]]:
    """Encoder, tokenizer, settings and further tensors of such a folder, in eval mode and float32.

    Args:
        folder: see `save_dialog_encoder`.
        attention: "eager", "sdpa", or "auto", the library's choice.

    Raises:
        UserError: no such folder, or files that are damaged or do not fit.
    """
    folder = Path(folder)
    chosen = {} if attention == "auto" else {"attn_implementation": attention}
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
        tensors = read_state_dict(folder / TABLES)
        role, turn, cls_row = (tensors.pop(name) for name in ("role", "turn", "cls"))
        with quiet():
            model, info = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                add_pooling_layer=False,
                output_loading_info=True,
                **chosen,
            )
            if lost := sorted(info["missing_keys"]):
                raise UserError(f"{len(lost)} tensors such as {lost[0]} are missing")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        old, cls_id = model.embeddings, int(tokenizer.cls_token_id)
        with torch.no_grad():
            old.word_embeddings.weight[cls_id] = cls_row
            old.position_embeddings = table(old.position_embeddings.weight[1:].clone())
            old.token_type_embeddings = table(role)
        model.config.type_vocab_size = NUM_ROLES
        model.config.max_position_embeddings -= 1
        encoder = DialogEncoder(model, len(old.word_embeddings.weight), cls_id, len(turn))
        with torch.no_grad():
            encoder.embeddings.turn_embeddings.weight.copy_(turn)
    except Exception as error:  # transformers has no class of its own for damage
        raise UserError(
            f"{folder} is not an exported dialogue encoder, or damaged: {error}"
        ) from error
    return encoder.eval(), tokenizer, settings, tensors


def fill(part: nn.Module, name: str, tensors: dict[str, Tensor], folder: str | Path) -> None:
    """Load a further module from the tensors of a folder.

    Raises:
        UserError: other tensors than the module has.
    """
    prefix = f"{name}."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        part.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{Path(folder) / TABLES}: {name} does not fit: {error}") from error


def _with_template(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that writes a user's request as [CLS] <sos_u> ... <eos_u>."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    names = (tokenizer.cls_token, *USER_MARKS)
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    backend.post_processor = TemplateProcessing(
        single=f"{names[0]} {names[1]} $A {names[2]}", pair=None, special_tokens=ids
    )
    assert USER == 0  # token type 0 of the exported model is a user's current turn
    kept = {
        name: getattr(tokenizer, name)
        for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    tokenizer_class: Any = PreTrainedTokenizerFast
    new: PreTrainedTokenizerFast = tokenizer_class(
        tokenizer_object=backend, model_max_length=tokenizer.model_max_length, **kept
    )
    new.add_special_tokens({"additional_special_tokens": [*USER_MARKS, *SYSTEM_MARKS]})
    return new
