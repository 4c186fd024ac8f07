"""Pairs of a config's domains: read from files or made of bundled sets; batches of pairs."""

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
    ".jsonl": read_jsonl, ".jsonl.gz": read_jsonl, ".csv": read_csv, ".tsv": read_csv,
    ".parquet": read_parquet,
}  # fmt: skip
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

    The control ``method.assignment=hashed`` gives equal texts equal experts, whatever the domain.
    """
    if cfg.method.assignment == "domain":
        return lambda text, domain: domain
    count, salt = len(cfg.data.domains), cfg.hashes
    return lambda text, domain: int(stable_fraction(f"{salt} {text}") * count)


def load_pairs(cfg: Config, part: Part) -> dict[str, list[Pair]]:
    """Pairs of each domain, in the order of the config.

    Raises:
        UserError: missing or broken files; a document in two parts.
    """
    data = cfg.data
    if data.source == "synthetic":
        return {name: synthetic_pairs(name, cfg.seed)[part] for name in data.domains}
    if data.source == "bundled":
        return {d: bundled_pairs(d, data.root, data.test_pairs)[part] for d in data.domains}
    return {d: read_pairs(folder_of(cfg, d), d)[part] for d in data.domains}


def folder_of(cfg: Config, domain: str) -> Path:
    """Folder of a domain's files: as named, or below the data root."""
    path = Path(cfg.data.paths[domain]).expanduser()
    return path if path.is_dir() else data_root(cfg.data.root) / path


def read_pairs(folder: Path, domain: str) -> dict[Part, list[Pair]]:
    """Pairs of a folder with ``train``, ``valid`` and ``test``: .jsonl, .csv, .tsv or .parquet.

    Columns a, b, label; a part may have several files ``train-*.parquet``, as published sets have
    them, also below a folder ``data``.

    Raises:
        UserError: a missing or broken file, or a text that is in two parts.
    """
    found: dict[Part, list[Pair]] = {}
    owner: dict[str, Part] = {}
    for part in PARTS:
        paths = [
            p for place in (folder, folder / "data") for p in sorted(place.glob(f"{part}[.-]*"))
        ]
        paths = [path for path in paths if _ending(path) in READERS]
        if not paths:
            raise UserError(
                f"domain '{domain}': {folder} needs {part}.jsonl (or .jsonl.gz, .csv, .tsv, .parquet) with the "
                "columns a, b, label; `make run PROJECT=moe_embeddings TASK=pairs` writes it"
            )
        columns = ("a", "b", "label")
        rows = [row for path in paths for row in READERS[_ending(path)](path, columns)]
        if {str(row["label"]) for row in rows} - {"0", "1", "0.0", "1.0"}:
            raise UserError(f"{paths[0]}: labels are 0 or 1")
        found[part] = [Pair(str(r["a"]), str(r["b"]), int(float(r["label"])), domain) for r in rows]
        for text in {t for pair in found[part] for t in (pair.a, pair.b)}:
            if owner.setdefault(text, part) != part:
                raise UserError(
                    f"domain '{domain}': a text is in the parts {owner[text]} and {part} "
                    f"({text[:60]!r}); split by documents"
                )
    return found


def _ending(path: Path) -> str:
    return ".jsonl.gz" if path.name.endswith(".jsonl.gz") else path.suffix


def training_pairs(cfg: Config) -> list[Pair]:
    """Positive pairs of the domains that are trained on, one domain after the other.

    Raises:
        UserError: see `load_pairs`; a domain without a positive pair.
    """
    found: list[Pair] = []
    for number, (name, pairs) in enumerate(load_pairs(cfg, "train").items()):
        if cfg.data.train_domains and name not in cfg.data.train_domains:
            continue
        right = [pair for pair in pairs if pair.label == 1]
        if not right:
            raise UserError(f"domain '{name}' has no positive pair to train on")
        order = sample_rng(cfg.seed, 0, number, _DRAW_STREAM).permutation(len(right))
        found += [right[i] for i in np.sort(order[: cfg.data.train_pairs])]
    return found


def training_data(cfg: Config, encoder: DomainEncoder) -> ContrastiveData:
    """Batches of pairs; the validation pairs if the config validates."""
    pairs = training_pairs(cfg)
    data = cfg.data
    train = PairTexts(pairs, encoder, expert_of(cfg), data.swap_prob, cfg.seed)
    val: dict[str, Dataset[Pair]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        rows = [p for own in evaluated_domains(cfg, "valid").values() for p in own]
        val["pairs"] = LabelledPairs(rows)
    return ContrastiveData(
        train, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers, val=val,
        eval_batch_size=cfg.eval.batch_size,
        groups=train.domains if data.batches == "single_domain" else None,
    )  # fmt: skip


def evaluated_domains(cfg: Config, part: Part) -> dict[str, list[Pair]]:
    """Pairs of a part that a model of this config is selected by: those of its own domains."""
    own = cfg.data.train_domains or cfg.data.domains
    return {name: pairs for name, pairs in load_pairs(cfg, part).items() if name in own}


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and data that the config needs."""
    found = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source == "bundled":
        found += [bundled_requirement(FOLDERS[name]) for name in cfg.data.domains]
    for name in cfg.data.paths:
        path = folder_of(cfg, name)
        hint = "train, valid and test with the columns a, b, label; see the card, Data"
        found.append(Requirement(f"data: {name}", str(path), path.is_dir(), hint))
    return found


def texts_by_domain(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[str]]:
    """Distinct documents of each domain's pairs, in the order of their first occurrence."""
    return {
        name: list(dict.fromkeys(text for pair in own for text in (pair.a, pair.b)))
        for name, own in pairs.items()
    }
