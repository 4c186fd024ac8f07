"""Training-free baselines: chance, one vector for all texts, the untrained model."""

import torch

from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.one_to_k.config import Config
from projects.one_to_k.cross_lingual import Ranks
from projects.one_to_k.data import EvalSet, build_tokenizer, evaluation_sets
from projects.one_to_k.evaluate import ranks_of, table
from projects.one_to_k.module import OneToK
from projects.one_to_k.start import starting_module


def random_ranking(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Every query of every language ranks the items in an order of its own."""
    name, eval_set = _own_set(cfg)
    generator = torch.Generator().manual_seed(cfg.seed)

    def ranks(queries: int, items: int) -> torch.Tensor:
        return 1 + torch.randint(items, (queries,), generator=generator)

    drawn = {
        language: Ranks(
            ranks(len(one.images), len(one.texts)), ranks(len(one.texts), len(one.images))
        )
        for language, one in eval_set.sets.items()
    }
    return table(name, drawn, eval_set)


def constant_text(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """One vector for all texts and images: no variance between languages, and no recall."""
    name, eval_set = _own_set(cfg)
    last = {
        language: Ranks(
            torch.full((len(one.images),), len(one.texts)),
            torch.full((len(one.texts),), len(one.images)),
        )
        for language, one in eval_set.sets.items()
    }
    return table(name, last, eval_set)


def untrained_model(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The model before its training; of fine-tuning, the export."""
    (name, eval_set), tokenizer = _own_set(cfg), build_tokenizer(cfg.model)
    module = untrained(lambda: starting_module(cfg, OneToK), cfg.seed)
    with evaluated(module, cfg.trainer.accelerator):
        ranks, _ = ranks_of(cfg, module.network, eval_set, tokenizer)
    return table(name, ranks, eval_set)


def _own_set(cfg: Config) -> tuple[str, EvalSet]:
    return next(iter(evaluation_sets(cfg, build_tokenizer(cfg.model)).items()))
