"""The one stage; what `make check` builds, what is exported and read again."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from common.engine.experiment import Plan, Stage
from projects.mclrec.config import Config
from projects.mclrec.data import build_data, load_sets, requirements, training_set
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.module import MCLRec
from projects.mclrec.network import encoder_options
from projects.mclrec.recommender import Recommender, load_recommender, save_recommender
from projects.mclrec.validation import MONITOR


def stages(cfg: Config) -> Iterator[Stage]:
    """Train; validation keeps the weights with the best MRR@10."""
    sets = load_sets(cfg)
    monitor = None if cfg.trainer.val_every_n_steps is None else MONITOR
    yield Stage("train", MCLRec(cfg, sets.log.items), build_data(cfg, sets), monitor=monitor)


def plan(cfg: Config) -> Plan[MCLRec]:
    """What `make check` reports on; without the log, sizes of a small one."""
    needed = requirements(cfg)
    there = all(requirement.present for requirement in needed)
    sets = load_sets(cfg) if there else None
    items = sets.log.items if sets is not None else [str(item) for item in range(1000)]

    def forward(module: MCLRec, batch_size: int) -> Tensor:
        rows = batch_size * (3 if cfg.method.contrasts else 1)
        items = torch.ones(rows, cfg.data.max_length, dtype=torch.long)
        states = module.encoder(items, items.sum(1))
        total: Tensor = module.encoder.scores(states[:batch_size, -1]).sum() + states.sum()
        return total

    num_samples = len(training_set(cfg, sets)) if sets is not None else 1
    return Plan(lambda: MCLRec(cfg, items), num_samples, forward, needed)


def export(cfg: Config, module: MCLRec, folder: Path) -> None:
    """Write the encoder and the names of the items; augmenters serve training alone."""
    items = load_sets(cfg).log.items
    check_items(module.items, item_hash(items))
    recommender = Recommender(module.encoder, items)
    save_recommender(recommender, folder, encoder_options(cfg.model, cfg.data.max_length))


def load_export(cfg: Config, folder: Path) -> MCLRec:
    """The module around an exported encoder."""
    recommender = load_recommender(folder)
    return MCLRec(cfg, recommender.items, recommender.encoder)


def embed(cfg: Config, module: MCLRec) -> dict[str, Tensor]:
    """Vectors and scores of made-up histories, compared after export and reload."""
    encoder = module.encoder
    device = encoder.item_embedding.weight.device
    items = torch.arange(12, device=device).view(3, 4) % encoder.num_items + 1
    lengths = torch.tensor([4, 2, 1], device=device)
    vectors = encoder.user_vectors(items, lengths)
    outputs = {"users": vectors, "scores": encoder.scores(vectors)}
    return {name: value.detach().float().cpu() for name, value in outputs.items()}
