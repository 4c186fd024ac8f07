"""A trained model as a folder: the encoder for its library, the reverse dictionary alongside it."""

import json
from pathlib import Path
from typing import Any

from common.config import TrainerConfig, UserError
from common.encoders.state_dict import read_state_dict
from common.export.files import write_json, write_tensors
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder
from projects.defsent_plus.config import (
    Config,
    DictionaryData,
    EntryConfig,
    PoolerConfig,
    TrainConfig,
)
from projects.defsent_plus.data import Dictionary
from projects.defsent_plus.module import DefSentPlus

REVERSE = "reverse_dictionary"


def export(module: DefSentPlus, folder: Path) -> None:
    """Write a folder that sentence-transformers loads (transformers, where a template is used).

    Its sub-folder ``reverse_dictionary`` holds what that library has no place for: the pooler, its
    activation and the entries.
    """
    save_sentence_encoder(module.encoder, folder)
    tensors = {f"pooler.{name}": value for name, value in module.pooler.state_dict().items()}
    extra = {"entries": module.entries, "isotropy": module.isotropy}
    write_tensors(folder / REVERSE / "model.safetensors", tensors | extra)
    about = {
        "entries": module.names,
        "pieces": module.pieces,
        "pool": module.pool,
        "activation": module.activation,
        "max_length": module.definitions.max_length,
        "targets": "lm_head" if module.to_words else "entries",
    }
    write_json(folder / REVERSE / "config.json", about)


def load_export(folder: str | Path) -> DefSentPlus:
    """The module of such a folder, with the pooling and the activation that it was trained with.

    Needs no config and no other file: `DefSentPlus.lookup` answers from it.

    Raises:
        UserError: not such a folder.
    """
    folder = Path(folder)
    place = folder / REVERSE
    try:
        about = json.loads((place / "config.json").read_text("utf-8"))
        cfg = _settings(about)
        dictionary = Dictionary([str(e) for e in about["entries"]], [], [], tuple(about["pieces"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an export of this project: {error!r}") from error
    module = DefSentPlus(cfg, load_sentence_encoder(folder), 1, dictionary)
    tensors = read_state_dict(place / "model.safetensors")
    if tensors["entries"].shape != module.entries.shape:
        raise UserError(f"{place} does not fit the encoder next to it")
    module.set_entries(tensors["entries"])
    module.isotropy = tensors["isotropy"]
    weights = {k.removeprefix("pooler."): v for k, v in tensors.items() if k.startswith("pooler.")}
    module.pooler.load_state_dict(weights)
    return module.eval()


def _settings(about: Any) -> Config:
    """The part of a config that a finished module depends on."""
    words = about["targets"] == "lm_head"
    activation: Any = "auto" if words else about["activation"]  # that of the encoder's own config
    return Config(
        trainer=TrainerConfig(max_steps=1),
        rounds=1,
        data=DictionaryData(max_length=int(about["max_length"]), single_piece=words),
        entry=EntryConfig(targets="lm_head" if words else "entries"),
        pooler=PoolerConfig(activation=activation),
        train=TrainConfig(pool=about["pool"]),
    )
