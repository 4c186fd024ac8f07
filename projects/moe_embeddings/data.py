"""Pairs of a config's domains: read from files or made of bundled sets; batches of pairs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.data.splits import stable_fraction
from common.data.tables import Row, read_csv, read_jsonl, read_parquet
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from projects.moe_embeddings.bundled import FOLDERS, bundled_pairs, synthetic_pairs
from projects.moe_embeddings.cocitation import PARTS, Pair, Part
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.encoder import DomainEncoder

READERS: dict[str, Callable[..., list[Row]]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
_SWAP_STREAM, _DRAW_STREAM = 2**31 + 84, 2**31 + 85


class PairBatch(TypedDict):
    """Both documents of B pairs: all a, then all b."""

    input_ids: Tensor  # (2 B, L) int64
    attention_mask: Tensor  # (2 B, L) int64
    expert: list[int]  # 2 B, on the host: no device is waited for
    domain: Tensor  # (2 B,) int64
    ids: Tensor  # (B,) int64, places in the training set


class PairTexts(Dataset[PairBatch]):
    """Map-style training set that returns whole batches of positive pairs.

    Args:
        pairs: their labels are not looked at.
        encoder: tokenises.
        experts: expert of a document, given its text and the number of its domain.
        swap_prob: that a and b change places, drawn from (seed, epoch, index).
        seed: the experiment's seed.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        encoder: DomainEncoder,
        experts: Callable[[str, int], int],
        swap_prob: float,
        seed: int,
    ) -> None:
        self.pairs, self.swap_prob, self.seed = list(pairs), swap_prob, seed
        self.tokens, self.pad, self.experts = encoder.token_rows, encoder.pad, experts
        self.domains = encoder.indices([pair.domain for pair in pairs], len(pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def sides(self, index: int, epoch: int) -> tuple[str, str]:
        """Both documents of a pair in the order of this epoch."""
        pair = self.pairs[index]
        if sample_rng(self.seed, epoch, index, _SWAP_STREAM).random() < self.swap_prob:
            return pair.b, pair.a
        return pair.a, pair.b

    def __getitem__(self, keys: Sequence[Key]) -> PairBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        first, second = zip(*(self.sides(*key) for key in keys), strict=True)
        texts, domains = [*first, *second], 2 * [self.domains[index] for index, _ in keys]
        inputs = self.pad(self.tokens(texts, domains))
        return {
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
            "expert": [self.experts(t, d) for t, d in zip(texts, domains, strict=True)],
            "domain": torch.tensor(domains),
            "ids": torch.tensor([index for index, _ in keys]),
        }


class LabelledPairs(Dataset[Pair]):
    """Pairs of the validation, as they are."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    @staticmethod
    def collate(rows: Sequence[Pair]) -> list[Pair]:
        """A list."""
        return list(rows)


def expert_of(cfg: Config) -> Callable[[str, int], int]:
    """Expert of a document, given its text and the number of its domain.

    The control ``method.assignment=hashed`` gives equal texts equal experts, whatever the domain;
    the seed decides on the assignment.
    """
    if cfg.method.assignment == "domain":
        return lambda text, domain: domain
    count, salt = len(cfg.data.domains), f"{cfg.seed} {cfg.hashes}"
    return lambda text, domain: int(stable_fraction(f"{salt} {text}") * count)


def load_pairs(cfg: Config, part: Part) -> dict[str, list[Pair]]:
    """Pairs of each domain, in the order of the config.

    Raises:
        UserError: missing or broken files; a part without a pair of a kind.
    """
    data = cfg.data
    if data.source == "synthetic":
        return {name: synthetic_pairs(name, cfg.seed)[part] for name in data.domains}
    if data.source == "bundled":
        return {d: bundled_pairs(d, data.root, data.test_pairs)[part] for d in data.domains}
    read = separated({d: read_pairs(folder_of(cfg, d), d) for d in data.domains})
    for domain, parts in read.items():
        check_kinds(domain, parts)
    return {d: parts[part] for d, parts in read.items()}


def separated(
    read: Mapping[str, Mapping[Part, Sequence[Pair]]],
) -> dict[str, dict[Part, list[Pair]]]:
    """Pairs of all domains, so that no document is in two parts, neither of one domain nor of two.

    Test pairs stay as they are. A validation pair with a document of the test goes, and a training
    pair with a document of either; a warning says how many.

    Args:
        read: domain -> part -> pairs.
    """
    separate: dict[str, dict[Part, list[Pair]]] = {name: {} for name in read}
    held: set[str] = set()
    for part in reversed(PARTS):
        for name, parts in read.items():
            separate[name][part] = [p for p in parts[part] if p.a not in held and p.b not in held]
        kept = [pair for parts in separate.values() for pair in parts[part]]
        if lost := sum(len(parts[part]) for parts in read.values()) - len(kept):
            warnings.warn(
                f"{lost} pairs of the part '{part}' are left out: a part that is evaluated holds"
                f" one of their documents, {len(kept)} pairs are left",
                stacklevel=2,
            )
        held |= {text for pair in kept for text in (pair.a, pair.b)}
    return separate


def check_kinds(domain: str, parts: Mapping[Part, Sequence[Pair]]) -> None:
    """Refuse with UserError, before training, evaluation parts in which nothing can be told apart.

    Args:
        domain: its name.
        parts: of its files; an empty validation part is one that is not used.
    """
    for part in PARTS[1:]:
        kinds = {pair.label for pair in parts[part]}
        if kinds != {0, 1} and (kinds or part == "test"):
            missing = "positive" if 1 not in kinds else "negative"
            raise UserError(
                f"domain '{domain}': the part '{part}' has no {missing} pair (label"
                f" {int(1 not in kinds)})"
            )


def folder_of(cfg: Config, domain: str) -> Path:
    """Folder of a domain's files: as named, or below the data root."""
    path = Path(cfg.data.paths[domain]).expanduser()
    return path if path.is_dir() else data_root(cfg.data.root) / path


def read_pairs(folder: Path, domain: str) -> dict[Part, list[Pair]]:
    """Pairs of a folder with ``train``, ``valid`` and ``test``: .jsonl, .csv, .tsv or .parquet.

    Columns a, b, label; a part may have several files ``train-*.parquet``, as published sets have
    them, also below a folder ``data``. Pairs with an empty document are left out, as the paper
    does.

    Raises:
        UserError: a missing or broken file, or a part in two formats.
    """
    parts: dict[Part, list[Pair]] = {}
    for part in PARTS:
        paths = [
            p for place in (folder, folder / "data") for p in sorted(place.glob(f"{part}[.-]*"))
        ]
        paths = [path for path in paths if _ending(path) in READERS]
        if not paths:
            raise UserError(
                f"domain '{domain}': {folder} needs {part}.jsonl (or .jsonl.gz, .csv, .tsv,"
                " .parquet) with the columns a, b, label; `make run PROJECT=moe_embeddings"
                " TASK=pairs` writes it"
            )
        if len({_ending(path) for path in paths}) > 1:
            raise UserError(
                f"domain '{domain}': {folder} has the part '{part}' in two formats "
                f"({', '.join(path.name for path in paths)}); keep one"
            )
        columns = ("a", "b", "label")
        rows = [row for path in paths for row in READERS[_ending(path)](path, columns)]
        if {str(row["label"]) for row in rows} - {"0", "1", "0.0", "1.0"}:
            raise UserError(f"{paths[0]}: labels are 0 or 1")
        pairs = [
            Pair(str(r["a"] or ""), str(r["b"] or ""), int(float(r["label"])), domain) for r in rows
        ]
        parts[part] = [pair for pair in pairs if pair.a.strip() and pair.b.strip()]
        if empty := len(pairs) - len(parts[part]):
            warnings.warn(
                f"domain '{domain}': {empty} pairs of the part '{part}' have an empty document and"
                " are left out",
                stacklevel=2,
            )
    return parts


def _ending(path: Path) -> str:
    return ".jsonl.gz" if path.name.endswith(".jsonl.gz") else path.suffix


def training_pairs(cfg: Config) -> list[Pair]:
    """Positive pairs of the domains that are trained on, one domain after the other.

    Raises:
        UserError: see `load_pairs`; a domain without a positive pair.
    """
    chosen: list[Pair] = []
    for number, (name, pairs) in enumerate(load_pairs(cfg, "train").items()):
        if cfg.data.train_domains and name not in cfg.data.train_domains:
            continue
        right = [pair for pair in pairs if pair.label == 1]
        if not right:
            raise UserError(f"domain '{name}' has no positive pair to train on")
        order = sample_rng(cfg.seed, 0, number, _DRAW_STREAM).permutation(len(right))
        chosen += [right[i] for i in np.sort(order[: cfg.data.train_pairs])]
    return chosen


def training_data(cfg: Config, encoder: DomainEncoder) -> ContrastiveData:
    """Batches of pairs; the validation pairs if the config validates."""
    pairs = training_pairs(cfg)
    data = cfg.data
    train = PairTexts(pairs, encoder, expert_of(cfg), data.swap_prob, cfg.seed)
    val: dict[str, Dataset[Pair]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        by_domain = evaluated_domains(cfg, "valid")
        if empty := [name for name, members in by_domain.items() if not members]:
            raise UserError(
                f"domain '{empty[0]}' has no validation pair; give some, or set"
                " trainer.val_every_n_steps=null and method.patience=null"
            )
        val["pairs"] = LabelledPairs([pair for members in by_domain.values() for pair in members])
    return ContrastiveData(
        train,
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
        groups=train.domains if data.batches == "single_domain" else None,
    )


def evaluated_domains(cfg: Config, part: Part) -> dict[str, list[Pair]]:
    """Pairs of a part that a model of this config is selected by: those of its own domains."""
    domains = cfg.data.train_domains or cfg.data.domains
    return {name: pairs for name, pairs in load_pairs(cfg, part).items() if name in domains}


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs."""
    places = (cfg.model.pretrained, cfg.model.tokenizer, *cfg.eval.references.values())
    needs = [r for place in dict.fromkeys(places) if place for r in weights_requirement(place)]
    if cfg.data.source == "bundled":
        needs += [bundled_requirement(FOLDERS[name]) for name in cfg.data.domains]
    for name in cfg.data.paths:
        path = folder_of(cfg, name)
        hint = "train, valid and test with the columns a, b, label; see the card, Data"
        needs.append(Requirement(f"data: {name}", str(path), path.is_dir(), hint))
    return needs


def texts_by_domain(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[str]]:
    """Distinct documents of each domain's pairs, in the order of their first occurrence."""
    return {
        name: list(dict.fromkeys(text for pair in members for text in (pair.a, pair.b)))
        for name, members in pairs.items()
    }
