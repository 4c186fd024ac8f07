"""The log of a config, split, and what is trained on."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.lookup import bundled, data_root, require
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from common.engine.experiment import Requirement, bundled_requirement
from projects.mclrec.config import Config
from projects.mclrec.data_options import SequenceData
from projects.mclrec.interactions import (
    FORMATS,
    History,
    InteractionLog,
    k_core,
    make_log,
    read_log,
)
from projects.mclrec.leave_one_out import HeldOut, LeaveOneOut, leave_one_out
from projects.mclrec.prefixes import Prefixes
from projects.mclrec.synthetic import markov_log

BUNDLED = "rec-amazon/beauty-frequent.jsonl.gz"
SHARE_STREAM = 2**31 + 83


@dataclass(frozen=True)
class Sets:
    """A log and its split."""

    log: InteractionLog
    split: LeaveOneOut

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.log.items)


def load_sets(cfg: Config) -> Sets:
    """Read, filter and split what the config names.

    Raises:
        UserError: missing or unreadable file, nothing left, or another number of interactions than
            the config promises.
    """
    data = cfg.data
    if data.source == "synthetic":
        place = Path(f"{data.num_users}/{data.num_items}/{cfg.seed}")
    elif data.source == "bundled":
        place = bundled(BUNDLED, data.root)
    else:
        place = require(
            file_of(data),
            what="the interaction log",
            layout=f"one file: {FORMATS}",
            source="github.com/QinHsiu/MCLRec (dataset), or any log of your own",
            size="some MB",
        )
    return _load(data.source, place, data.min_user, data.min_item, data.num_actions)


@lru_cache(maxsize=2)
def _load(source: str, place: Path, min_user: int, min_item: int, num_actions: int) -> Sets:
    histories: list[History]
    if source == "synthetic":
        num_users, num_items, seed = (int(part) for part in place.parts)
        histories = markov_log(num_users, num_items, seed=seed)
    else:
        histories = read_log(place)
    log = make_log(k_core(histories, min_user, min_item))
    if num_actions and log.num_actions != num_actions:
        raise UserError(
            f"{place} holds {log.num_actions:,} interactions after the filters, the config expects "
            f"{num_actions:,}: get the released file, or set data.num_actions=0"
        )
    split = leave_one_out(log.sequences)
    if not len(split.users):
        raise UserError(
            f"{place}: no user with three items is left by data.min_user={min_user} and "
            f"data.min_item={min_item}; lower them"
        )
    return Sets(log, split)


def file_of(data: SequenceData) -> Path:
    """Path of the config's file."""
    path = Path(data.file or "").expanduser()
    return path if path.is_absolute() else data_root(data.root) / path


def training_set(cfg: Config, sets: Sets, *, views: bool | None = None) -> Prefixes:
    """All prefixes of the training parts.

    Args:
        cfg: the experiment's config.
        sets: its log.
        views: whether rows have augmented views; None: if the objective contrasts.
    """
    data, train = cfg.data, sets.split.train
    if data.train_share < 1:
        order = sample_rng(cfg.seed, 0, 0, stream=SHARE_STREAM).permutation(len(train))
        kept = np.sort(order[: max(1, round(data.train_share * len(train)))])
        train = [train[user] for user in kept]
    ratios = {"crop": data.crop_ratio, "mask": data.mask_ratio, "reorder": data.reorder_ratio}
    return Prefixes(
        train,
        max_length=data.max_length,
        seed=cfg.seed,
        ratios=ratios if (cfg.method.contrasts if views is None else views) else None,
        one_pass=data.prefixes == "one_pass",
    )


def build_data(cfg: Config, sets: Sets) -> ContrastiveData:
    """Training batches, and the validation items of all users."""
    split, data = sets.split, cfg.data
    held_out = HeldOut(
        split.histories("valid"),
        split.targets("valid"),
        data.max_length,
        whole=cfg.eval.mask_history,
    )
    return ContrastiveData(
        training_set(cfg, sets),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val={"valid": held_out},
        eval_batch_size=cfg.eval.batch_size,
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What must lie on disk."""
    if cfg.data.source == "synthetic":
        return ()
    if cfg.data.source == "bundled":
        return (bundled_requirement(BUNDLED, "Amazon Beauty, frequent items"),)
    path = file_of(cfg.data)
    return (Requirement("data: interaction log", str(path), path.is_file(), FORMATS),)
