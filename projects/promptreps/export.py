"""The language model as a plain folder of transformers, with a file that says what it is asked.

| file | content |
|---|---|
| model files and tokenizer | for ``AutoModelForCausalLM``, ``AutoTokenizer``; adapters merged |
| ``promptreps.json`` | prompt and representation |
"""

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from common.config import UserError
from common.encoders.text.language_models.causal import merge_lora
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.export.files import write_files, write_json
from projects.promptreps.config import Config, PromptConfig, RepresentationConfig
from projects.promptreps.encoder import PromptRepsEncoder
from projects.promptreps.lexical.prompted import PromptedModel

SETTINGS = "promptreps.json"


def save_encoder(encoder: PromptRepsEncoder, folder: str | Path) -> None:
    """Write the encoder; it does not change itself.

    Args:
        encoder: its adapters are merged into the copy that is written.
        folder: created if needed; other files in it stay.
    """
    model: Any = copy.deepcopy(encoder.lm.model)
    merge_lora(model)

    def write(new: Path) -> None:
        with quiet():
            model.save_pretrained(new)
        encoder.lm.tokenizer.save_pretrained(new)

    write_files(Path(folder), write)
    settings = {"prompt": asdict(encoder.prompt), "representation": asdict(encoder.options)}
    write_json(Path(folder) / SETTINGS, settings)


def load_encoder(folder: str | Path, cfg: Config | None = None) -> PromptRepsEncoder:
    """The encoder of a folder, in evaluation mode.

    Args:
        folder: written by `save_encoder`, or any causal language model of transformers.
        cfg: prompt and representation of a folder that has none of its own, and the dtype; None:
            the defaults, float32.

    Raises:
        UserError: not such a folder, or settings that are damaged.
    """
    folder, model = Path(folder), None if cfg is None else cfg.model
    prompt = model.prompt if model is not None else PromptConfig()
    options = model.representation if model is not None else RepresentationConfig()
    path = folder / SETTINGS
    if path.is_file():
        try:
            settings = json.loads(path.read_text("utf-8"))
            prompt = replace(prompt, **settings["prompt"])
            options = replace(options, **settings["representation"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error!r}; export the model again") from error
    lm = load_transformer(
        str(folder),
        auto_class=AutoModelForCausalLM,
        attention=model.attention if model is not None else "auto",
        dtype=getattr(torch, model.weights) if model is not None else torch.float32,
    )
    return PromptRepsEncoder(PromptedModel(lm, load_tokenizer(str(folder))), prompt, options).eval()
