"""Pre-training, fine-tuning if asked for; export and what `make check` builds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.encoders.modes import untrained
from common.encoders.pretrained import ARCHITECTURES, stand_in
from common.encoders.text.cross_encoder import CrossEncoder, cross_encoder
from common.encoders.text.mlm_head import masked_lm_head
from common.engine.callbacks import step_seed
from common.engine.experiment import Plan, Stage
from common.export.cross_encoder import load_cross_encoder, save_cross_encoder
from projects.b_prop.config import Config
from projects.b_prop.data import (
    SYNTHETIC_DOCUMENTS,
    bundled_texts,
    documents_folder,
    finetuning_data,
    pretraining_data,
    requirements,
)
from projects.b_prop.documents import PreparedDocuments
from projects.b_prop.module import BProp
from projects.b_prop.reranking import renew_head

RELEASED = ("xyma/PROP-wiki", "xyma/PROP-marco", "xyma/PROP-marco-step400k")
SIZES = {**ARCHITECTURES, **dict.fromkeys(RELEASED, ARCHITECTURES["bert-base-uncased"])}
PROBES = [("small cat", "A small cat sleeps."), ("roof repair", "Two men are repairing a roof.")]


def build_ranker(cfg: Config) -> CrossEncoder:
    """The cross-encoder before training.

    Raises:
        UserError: see `cross_encoder`.
    """
    model = cfg.model
    return cross_encoder(
        model.pretrained,
        head=model.head,
        config=model.config,
        attention=model.attention,
        max_length=model.max_length,
        max_first=model.max_first,
    )


def at_start(cfg: Config) -> CrossEncoder:
    """The very cross-encoder that training begins with, in evaluation mode."""
    return untrained(lambda: build_ranker(cfg), step_seed(cfg.seed, 0, 0, 0))


def lm_head(cfg: Config, ranker: CrossEncoder) -> nn.Module | None:
    """Head of the masked words, of the same checkpoint; None without them."""
    if not (cfg.method.pretrain and cfg.method.mlm):
        return None
    config: dict[str, Any] | None = None
    if cfg.model.pretrained == "random":
        config = {**(cfg.model.config or {}), "vocab_size": ranker.model.config.vocab_size}
    return masked_lm_head(cfg.model.pretrained, ranker.encoder, config=config)


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "pretrain" unless the config goes without, and "finetune" if it has steps.

    The attention of the bootstrap is read before the first step, from the weights that are trained
    then.
    """
    ranker = build_ranker(cfg)
    if cfg.method.pretrain:
        data = pretraining_data(cfg, ranker)
        yield Stage("pretrain", BProp(cfg, ranker, lm_head(cfg, ranker)), data)
    options = cfg.finetune
    if options.steps:
        if options.head == "new":
            renew_head(ranker)
        steps = {"max_steps": options.steps, "max_epochs": None}
        if not options.val_queries:
            steps["val_every_n_steps"] = None
        yield Stage(
            "finetune",
            BProp(cfg, ranker, finetune=True),
            finetuning_data(cfg, ranker),
            steps,
            monitor="val/ranking_loss" if options.val_queries else None,
            monitor_mode="min",
        )


def export(cfg: Config, module: BProp, folder: Path) -> None:
    """A folder that `AutoModelForSequenceClassification` loads, ranking head included."""
    save_cross_encoder(module.ranker, folder)


def load_export(cfg: Config, folder: Path) -> BProp:
    """A ranker of such a folder, or of any other one with a one-label head."""
    lengths = {"max_length": cfg.model.max_length, "max_first": cfg.model.max_first}
    if (folder / "cross_encoder.json").is_file():
        lengths = {}
    return BProp(cfg, load_cross_encoder(folder, **lengths))


def embed(cfg: Config, module: BProp) -> dict[str, Tensor]:
    """Scores of two fixed pairs."""
    return {"scores": module.ranker.score(PROBES)[:, None]}


def plan(cfg: Config) -> Plan[BProp]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    last = bool(cfg.finetune.steps)  # the stage whose module is evaluated

    def module() -> BProp:
        config = stand_in(cfg.model.pretrained, SIZES)
        if config is None:
            ranker = build_ranker(cfg)
            return BProp(cfg, ranker, None if last else lm_head(cfg, ranker), finetune=last)
        sizes = {"vocab_size": 30522, **config}
        ranker = cross_encoder(
            "random", config=sizes, max_length=cfg.model.max_length, max_first=cfg.model.max_first
        )
        head = None
        if cfg.method.mlm and not last:
            head = masked_lm_head("random", ranker.encoder, config=sizes)
        return BProp(cfg, ranker, head, finetune=last)

    def forward(module: BProp, batch_size: int) -> Tensor:
        options = cfg.finetune
        rows = options.batch_size * options.group_size if last else batch_size
        ids = torch.ones(rows, cfg.model.max_length, dtype=torch.long)
        logits: Tensor = module.ranker.model(input_ids=ids).logits.sum()
        return logits

    samples = 0
    if cfg.method.pretrain and all(r.present for r in needed):
        samples = 2 * num_documents(cfg) * cfg.data.pairs  # inputs, as the batch size counts them
    return Plan(module, samples, forward, tuple(needed))


def num_documents(cfg: Config) -> int:
    """Documents of the pre-training, before those without enough words are left out."""
    if cfg.data.source == "files":
        return len(PreparedDocuments(documents_folder(cfg)))
    if cfg.data.source == "synthetic":
        return SYNTHETIC_DOCUMENTS
    return len(bundled_texts(cfg))
