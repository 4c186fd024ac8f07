"""What 1-to-K has to beat without training: chance, one vector for all texts, the untrained model."""

import torch

from common.data.image_text.retrieval_sets import aligned
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.image_text.cross_lingual import Ranks, cross_lingual_metrics
from projects.one_to_k.config import Config
from projects.one_to_k.data import EvalSet, build_tokenizer, evaluation_sets
from projects.one_to_k.evaluate import KS, ranks_of
from projects.one_to_k.module import OneToK


def random_ranking(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Every query of every language ranks the items in an order of its own."""
    found = _own_set(cfg)
    generator = torch.Generator().manual_seed(cfg.seed)

    def ranks(queries: int, items: int) -> torch.Tensor:
        return 1 + torch.randint(items, (queries,), generator=generator)

    drawn = {
        language: Ranks(
            ranks(len(one.images), len(one.texts)), ranks(len(one.texts), len(one.images))
        )
        for language, one in found.sets.items()
    }
    return cross_lingual_metrics(drawn, aligned=aligned(found.sets), ks=KS)


def constant_text(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """One vector for all texts and images: no variance between languages, and no recall."""
    found = _own_set(cfg)
    last = {
        language: Ranks(
            torch.full((len(one.images),), len(one.texts)),
            torch.full((len(one.texts),), len(one.images)),
        )
        for language, one in found.sets.items()
    }
    return cross_lingual_metrics(last, aligned=aligned(found.sets), ks=KS)


def untrained_model(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The model as its training begins with it."""
    found, tokenizer = _own_set(cfg), build_tokenizer(cfg.model)
    module = untrained(lambda: OneToK(cfg), cfg.seed)
    with evaluated(module, cfg.trainer.accelerator):
        ranks, _ = ranks_of(cfg, module.network, found, tokenizer)
    return cross_lingual_metrics(ranks, aligned=aligned(found.sets), ks=KS)


def _own_set(cfg: Config) -> EvalSet:
    return next(iter(evaluation_sets(cfg, build_tokenizer(cfg.model)).values()))
