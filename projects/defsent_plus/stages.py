"""Progressive separate training: targets go from round to round, models start from the encoder in each."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.config import to_dict
from common.distributed.process import is_rank_zero
from common.encoders.state_dict import weights_digest
from common.engine.experiment import Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.families.sentences.experiment import train_stage
from common.families.sentences.module import first_encoder
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import Dictionary, definition_views, load_dictionary
from projects.defsent_plus.entries import offline_folder, round_entries
from projects.defsent_plus.first_weights import fill_pooler
from projects.defsent_plus.module import DefSentPlus

# what the model of a round depends on, alongside the number of the round
_SETTINGS = (
    "data",
    "model",
    "optim",
    "trainer",
    "entry",
    "pooler",
    "train",
    "restart_from_base",
    "loss_backend",
    "seed",
)


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage a round: E(k) from M_{k-1}, then M_0 is trained towards it and becomes M_k.

    The model of a round before the last that another run of equal settings has trained is loaded.

    Source: arXiv 2405.16153, progressive separate training, and the official code.
    """
    dictionary = load_dictionary(cfg)
    before: DefSentPlus | None = None
    start = ""
    for number in range(1, cfg.rounds + 1):
        module = round_module(cfg, dictionary, before, number)
        start = start or weights_digest(nn.ModuleList([module.encoder, module.pooler]))
        views = definition_views(cfg, module.encoder, dictionary)
        stage = train_stage(cfg, module, views, f"round_{number}")
        kept = model_path(cfg, number, start, dictionary)
        last = number == cfg.rounds
        yield replace(stage, weights=kept if kept.is_file() and not last else None)
        if _may_serve(cfg, number) and is_rank_zero():
            keep_weights(kept, module)
        before = module


def round_module(
    cfg: Config, dictionary: Dictionary, before: DefSentPlus | None, number: int
) -> DefSentPlus:
    """What a round begins with: the weights of M_0, and targets of the model before.

    Args:
        cfg: the experiment's config.
        dictionary: entries and definitions.
        before: M_{k-1} of rounds after the first.
        number: k.
    """
    module = DefSentPlus(cfg, first_encoder(cfg), number, dictionary)  # M_0, in every round
    fill_pooler(cfg, module)
    if not module.to_words:
        source = module.encoder if before is None else before.encoder  # M_{k-1}
        entries, cosines = round_entries(cfg, dictionary, source, number)
        module.set_entries(entries)
        if before is not None:
            module.isotropy[: number - 1] = before.isotropy
        module.isotropy[number - 1] = torch.tensor(cosines, dtype=torch.float64)
    if before is not None and not cfg.restart_from_base:  # the ablation: continue from M_{k-1}
        module.encoder.load_state_dict(deepcopy(before.encoder.state_dict()))
        module.pooler.load_state_dict(before.pooler.state_dict())
    return module.train()


def model_path(cfg: Config, number: int, start: str, dictionary: Dictionary) -> Path:
    """Where the model of a round is kept for runs with more rounds.

    Args:
        cfg: the experiment's config.
        number: k.
        start: digest of M_0 and its pooler: files that the config names may have changed since.
        dictionary: entries and definitions, for the same reason.
    """
    plain = to_dict(cfg)
    parts = {name: plain[name] for name in _SETTINGS} | {"round": number, "start": start}
    parts["definitions"] = dictionary.definitions
    # the set that selects a checkpoint, where one is selected
    parts["dev"] = None if cfg.trainer.val_every_n_steps is None else cfg.eval.dev
    parts["entry"] = {**plain["entry"], "ica": None}  # acts in the last round alone
    parts["train"] = {**plain["train"], "lr": plain["train"]["lr"][:number]}
    return kept_path(offline_folder(cfg), f"round_{number}", "defsent_plus", parts)


def _may_serve(cfg: Config, number: int) -> bool:
    """Whether this round's model is what a run with more rounds has in its place."""
    return cfg.entry.targets == "entries" and not (cfg.entry.ica.enabled and number == cfg.rounds)
