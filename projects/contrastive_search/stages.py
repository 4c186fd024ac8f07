"""Language model of a config, stages, export, and what `make check` builds."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.tables import read_jsonl
from common.encoders.pretrained import stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer, quiet
from common.engine.experiment import Plan, Stage, weights_requirement
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.export.files import write_files
from projects.contrastive_search.config import Config
from projects.contrastive_search.data import (
    Lines,
    build_data,
    check_judges,
    judge_requirements,
    requirements,
    training_lines,
)
from projects.contrastive_search.module import SimCTG

PROBE = "The rain had stopped, and"
_GPT2: dict[str, Any] = {"model_type": "gpt2"}
# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT2,
    "openai-community/gpt2": _GPT2,
    "dbmdz/german-gpt2": {**_GPT2, "vocab_size": 50265},
    "ml6team/gpt2-medium-german-finetune-oscar": {
        **_GPT2,
        "n_embd": 1024,
        "n_layer": 24,
        "n_head": 16,
    },
    "gpt2-large": {**_GPT2, "n_embd": 1280, "n_layer": 36, "n_head": 20},
    "facebook/opt-1.3b": {
        "model_type": "opt",
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "ffn_dim": 8192,
    },
    "facebook/opt-2.7b": {
        "model_type": "opt",
        "hidden_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "ffn_dim": 10240,
    },
    "Salesforce/codegen-2B-mono": {
        "model_type": "codegen",
        "n_embd": 2560,
        "n_layer": 32,
        "n_head": 32,
        "rotary_dim": 64,
        "vocab_size": 51200,
    },
}


def build_module(cfg: Config) -> SimCTG:
    """The language model of the config, before training.

    Raises:
        UserError: absent or unfitting weights.
    """
    model = load_transformer(
        cfg.model.pretrained,
        config=cfg.model.config,
        auto_class=AutoModelForCausalLM,
        dtype=getattr(torch, cfg.model.dtype),
    )
    return SimCTG(cfg, model, _tokenizer(cfg))


def stages(cfg: Config) -> Iterator[Stage]:
    """SimCTG; or, without training, the language model as it is.

    Raises:
        UserError: absent weights or data, those of the evaluation's judges too.
    """
    check_judges(cfg)
    module = build_module(cfg)
    if cfg.method.train:
        monitor = "val/mle" if cfg.trainer.val_every_n_steps is not None else None
        data = build_data(cfg, module.tokenizer)
        yield Stage("simctg", module, data, monitor=monitor, monitor_mode="min")
        return
    # nothing is fitted: the stage takes over the weights, as from another run
    settings = {
        "model": cfg.model.pretrained,
        "config": cfg.model.config,
        "dtype": cfg.model.dtype,
        "seed": cfg.seed if cfg.model.config else 0,
    }
    kept = kept_path(
        Path(cfg.runs_dir) / "contrastive_search" / "models",
        "off-the-shelf",
        "contrastive_search",
        settings,
    )
    keep_weights(kept, module)
    nothing = Lines([PROBE] * cfg.data.batch_size, module.tokenizer, cfg.data.length, cfg.seed)
    data = ContrastiveData(nothing, batch_size=cfg.data.batch_size, seed=cfg.seed)
    yield Stage("off_the_shelf", module, data, weights=kept)


def save(module: SimCTG, folder: Path) -> None:
    """A plain folder of transformers: ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it."""
    model: Any = copy.deepcopy(module.model)

    def write(new: Path) -> None:
        with quiet():
            model.save_pretrained(new)
        module.tokenizer.save_pretrained(new)

    write_files(folder, write)


def load(cfg: Config, folder: Path) -> SimCTG:
    """The module around a folder of transformers.

    Raises:
        UserError: not such a folder.
    """
    dtype = getattr(torch, cfg.model.dtype)
    model = load_transformer(str(folder), auto_class=AutoModelForCausalLM, dtype=dtype)
    return SimCTG(cfg, model, load_tokenizer(str(folder)))


def embed(module: SimCTG) -> dict[str, Tensor]:
    """States and logits of a small fixed text, to be compared after a reload."""
    ids = torch.tensor([module.tokenizer(PROBE)["input_ids"]], device=module.device)
    out = module.model(input_ids=ids, output_hidden_states=True)
    return {"states": out.hidden_states[-1].cpu(), "logits": out.logits.cpu()}


def plan(cfg: Config) -> Plan[SimCTG]:
    """What `make check` reports on."""
    sizes = stand_in(cfg.model.pretrained, ARCHITECTURES)
    needed = (*weights_requirement(cfg.model.pretrained), *requirements(cfg))

    def module() -> SimCTG:
        if sizes is None:
            return build_module(cfg)
        model = load_transformer("random", config=sizes, auto_class=AutoModelForCausalLM)
        return SimCTG(cfg, model, tiny_tokenizer())

    def forward(built: SimCTG, batch_size: int) -> Tensor:
        ids = torch.ones(batch_size, cfg.data.length, dtype=torch.long)
        # an empty cache: without it transformers looks at the values of positions, and meta has
        # none
        out: Tensor = built.model(input_ids=ids, past_key_values=DynamicCache()).logits
        return out.sum()

    samples = 0
    if cfg.method.train and all(r.present for r in needed):
        lines = training_lines(cfg)
        samples = len(Lines(lines, _tokenizer(cfg), cfg.data.length, cfg.seed))
    return Plan(module, samples, forward, (*needed, *judge_requirements(cfg)))


def read_items(cfg: Config, name: str | None, what: str) -> Any:
    """A JSON file of the release, or JSON lines, below the data root.

    Raises:
        UserError: no file, or another content.
    """
    if name is None:
        raise UserError(f"set {what}")
    path = data_root(cfg.data.root) / name
    if path.suffix != ".json":
        return read_jsonl(path)
    if not path.is_file():
        raise UserError(f"{path} ({what}) does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} ({what}) is not valid JSON: {error}") from error


def _tokenizer(cfg: Config) -> Any:
    return (
        tiny_tokenizer() if cfg.model.config is not None else load_tokenizer(cfg.model.pretrained)
    )
