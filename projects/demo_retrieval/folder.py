"""An exported model: a folder of transformers with retriever and bank in their own files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.config import UserError
from common.encoders.modes import evaluation_mode
from common.encoders.text.tower import quiet
from common.export.files import write_files, write_json
from projects.demo_retrieval.bank import Bank, read_bank, write_bank
from projects.demo_retrieval.batches import EvalRows
from projects.demo_retrieval.config import Config, GeneratorConfig, RetrieverConfig
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.network import build_generator, saved_weights
from projects.demo_retrieval.retriever import load_retriever
from projects.demo_retrieval.stages import demonstrations_of
from projects.demo_retrieval.template import Example

SETTINGS, BANK, INDEX = "demo_retrieval.json", "bank.jsonl", "index.safetensors"
_DATA = ("max_source", "max_demo", "max_target", "max_options", "demo_options", "demo_answers")
_METHOD = ("selection", "k", "coupling")
_RETRIEVER = ("kind", "question", "context", "pooling", "max_length", "dim", "scale", "key")
PROBES = (
    Example("", "what is there?", ("cat",), "one cat"),
    Example("", "what is it about?", ("a",), "two dogs"),
)


def export(cfg: Config, module: DemoRetrieval, folder: Path) -> None:
    """Generator and tokenizer for `AutoModelForSeq2SeqLM`.

    The bank is a JSONL file that may be replaced, then it is indexed again.
    """

    def write(new: Path) -> None:
        with quiet():
            module.network.save_pretrained(new, state_dict=saved_weights(module.network))
            module.tokenizer.save_pretrained(new)

    write_files(folder, write)
    settings = module.cfg
    write_json(
        folder / SETTINGS,
        {
            "data": {name: getattr(settings.data, name) for name in _DATA},
            "method": {name: getattr(settings.method, name) for name in _METHOD},
            "retriever": {name: getattr(settings.retriever, name) for name in _RETRIEVER},
            "eval": {
                "num_beams": settings.eval.num_beams,
                "max_new_tokens": settings.eval.max_new_tokens,
            },
        },
    )
    if module.bank is not None:
        module.bank.retriever.save(folder)
        write_bank(folder / BANK, module.bank.examples)
        module.bank.write_index(folder / INDEX)


def settings(folder: Path) -> dict[str, Any]:
    """What an exported folder says of itself.

    Raises:
        UserError: not such a folder.
    """
    try:
        stored = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        return {part: dict(stored[part]) for part in ("data", "method", "retriever", "eval")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported demo_retrieval model: {error!r}") from error


def load(cfg: Config, folder: Path, bank: Sequence[Example] | None = None) -> DemoRetrieval:
    """The module of an exported folder, in evaluation mode.

    Args:
        cfg: what the folder doesn't say; its data, method and retriever sections are overwritten.
        folder: see `export`.
        bank: demonstrations in place of the exported ones.

    Raises:
        UserError: not such a folder, or damaged files.
    """
    for part, values in settings(folder).items():
        for name, value in values.items():
            setattr(getattr(cfg, part), name, value)
    network, tokenizer = build_generator(GeneratorConfig(pretrained=str(folder)))
    module = DemoRetrieval(cfg, network, tokenizer).eval()
    if cfg.method.selection != "none":
        settings_of_retriever: RetrieverConfig = cfg.retriever
        examples = read_bank(folder / BANK) if bank is None else bank
        index = folder / INDEX if bank is None else None
        retriever = load_retriever(settings_of_retriever, folder, cfg.trainer.accelerator)
        module.bank = Bank(
            examples, retriever, settings_of_retriever.key, settings_of_retriever.cache, index
        )
    return module


def embed(cfg: Config, module: DemoRetrieval) -> dict[str, Tensor]:
    """Logits for two inputs with their demonstrations, compared after export and reload."""
    assert module.encoder is not None
    rows = EvalRows(
        PROBES, module.encoder, demonstrations_of(module.cfg, module.bank), 0, targets=True
    )
    batch = rows.collate([0, 1])
    device = next(module.parameters()).device
    moved: Any = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    with evaluation_mode(module):
        return {"logits": module.logits(moved).float().cpu(), "scores": batch["scores"]}
