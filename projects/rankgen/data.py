"""Triples, their batches, and what a config needs on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lines import LineFile
from common.data.lookup import bundled, data_root
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.data.tables import read_jsonl
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from projects.rankgen.config import Config
from projects.rankgen.encoder import PrefixSuffixEncoder

FOLDER = "book-continuations"
FILE = "continuations.jsonl.gz"
COLUMNS = ("doc_id", "prefix", "gold", "generated")
PAPER_TRIPLES = 4096 * 100_000 // 10  # what `make check` counts with where no file is there
LIMIT_STREAM, SYNTHETIC_STREAM = 64, 65
SYNTHETIC_DOCUMENTS, SYNTHETIC_WINDOWS = 4, 24


class Triple(NamedTuple):
    """A prefix, the text that follows it, and what a language model wrote instead."""

    document: str
    prefix: str
    gold: str
    generated: str | None


class TripleBatch(TypedDict):
    """Token ids and masks of B triples; without generations that entry is missing."""

    prefix: dict[str, Tensor]
    gold: dict[str, Tensor]
    generated: dict[str, Tensor]
    ids: Tensor  # (B,) int64


class Triples(Protocol):
    """Indexable triples with the document of each."""

    documents: np.ndarray  # (N,) int64

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Triple: ...


class TripleList:
    """Triples in memory."""

    def __init__(self, rows: Sequence[Triple]) -> None:
        self.rows = list(rows)
        _, documents = np.unique([row.document for row in self.rows], return_inverse=True)
        self.documents: np.ndarray = documents.astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Triple:
        return self.rows[index]


class TripleFile:
    """Triples of a JSONL file, read when they are used; only the documents are in memory.

    Args:
        path: one object per line with ``doc_id``, ``prefix``, ``gold`` and, but for
            ``method.negatives=inbook``, ``generated``.

    Raises:
        UserError: no such file, or a line that is not such an object.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: expected one JSON object per line with doc_id, prefix, "
                "gold and generated, as `make run PROJECT=rankgen TASK=generate` writes it"
            )
        self.lines = LineFile(path)
        codes: dict[str, int] = {}  # one string per document, not per triple
        documents = (codes.setdefault(self[i].document, len(codes)) for i in range(len(self.lines)))
        self.documents: np.ndarray = np.fromiter(documents, np.int64, len(self.lines))

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Triple:
        try:
            row = json.loads(self.lines[index])
            return _triple(row)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{self.lines.path}, line {index + 1}: no triple ({error})") from error


class TripleBatches(Dataset[TripleBatch]):
    """Map-style training set that returns whole batches.

    Args:
        triples: what is drawn from.
        encoder: its tokenizer, markers and lengths.
        generated: whether generations are part of the batch.

    Raises:
        UserError: generations are needed and a triple has none (at access).
    """

    def __init__(self, triples: Triples, encoder: PrefixSuffixEncoder, generated: bool) -> None:
        self.triples, self.generated = triples, generated
        self.token_ids, self.pad = encoder.token_ids, encoder.pad

    def __len__(self) -> int:
        return len(self.triples)

    def __getitem__(self, keys: Sequence[Key]) -> TripleBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rows = [self.triples[index] for index, _ in keys]
        batch: dict[str, Any] = {
            "prefix": self.pad(self.token_ids([row.prefix for row in rows], "prefix")),
            "gold": self.pad(self.token_ids([row.gold for row in rows], "suffix")),
            "ids": torch.tensor([index for index, _ in keys]),
        }
        if self.generated:
            texts = [row.generated for row in rows]
            if None in texts:
                raise UserError(
                    f"triple {keys[texts.index(None)][0]} has no generated continuation: run "
                    "TASK=generate, or set method.negatives=inbook"
                )
            batch["generated"] = self.pad(self.token_ids([t or "" for t in texts], "suffix"))
        return batch  # type: ignore[return-value]


def train_triples(cfg: Config) -> Triples:
    """Training triples of the config.

    Raises:
        UserError: a missing or broken file, or fewer triples than `data.limit`.
    """
    triples: Triples
    if cfg.data.source == "synthetic":
        triples = TripleList(synthetic_triples(SYNTHETIC_WINDOWS, seed=0))
    elif cfg.data.source == "bundled":
        triples = TripleList(bundled_triples(cfg, "train"))
    else:
        triples = TripleFile(data_root(cfg.data.root) / str(cfg.data.file))
    if cfg.data.limit is None:
        return triples
    if cfg.data.limit > len(triples):
        raise UserError(f"data.limit={cfg.data.limit}, but there are {len(triples)} triples")
    order = sample_rng(cfg.seed, 0, 0, LIMIT_STREAM).permutation(len(triples))
    return TripleList([triples[int(i)] for i in np.sort(order[: cfg.data.limit])])


def eval_triples(cfg: Config) -> TripleList:
    """Triples of documents or chapters that were not trained on.

    Raises:
        UserError: a missing or broken file.
    """
    if cfg.data.source == "synthetic":
        return TripleList(synthetic_triples(SYNTHETIC_WINDOWS // 2, seed=1))
    if cfg.data.source == "bundled":
        return TripleList(bundled_triples(cfg, cfg.eval.part))
    if cfg.data.eval_file is None:
        raise UserError("set data.eval_file: triples of documents outside data.file")
    file = TripleFile(data_root(cfg.data.root) / cfg.data.eval_file)
    return TripleList([file[i] for i in range(len(file))])


def bundled_triples(cfg: Config, part: str) -> list[Triple]:
    """One part of the bundled continuations."""
    rows = read_jsonl(bundled(FOLDER, cfg.data.root) / FILE, (*COLUMNS, "part"))
    return [_triple(row) for row in rows if row["part"] == part]


def synthetic_triples(windows: int, seed: int) -> list[Triple]:
    """Made-up documents: each has words of its own, each of its windows a few of them."""
    triples = []
    for d in range(SYNTHETIC_DOCUMENTS):
        for w in range(windows):
            rng = sample_rng(seed, d, w, SYNTHETIC_STREAM)
            topic = [f"{'abcdefgh'[d]}{'klmnopqrstuvw'[i]}" for i in rng.integers(13, size=3)]
            words = [str(x) for x in rng.choice([*topic, "the", "and", "of"], size=24)]
            gold = words[14:]
            shuffled = [gold[i] for i in rng.permutation(len(gold))]
            texts = (f"{' '.join(part)}." for part in (words[:14], gold, shuffled))
            triples.append(Triple(f"document {d}", *texts))
    return triples


def build_data(cfg: Config, encoder: PrefixSuffixEncoder) -> ContrastiveData:
    """Data module; batches of one document each unless `data.batches` is "mixed"."""
    triples = train_triples(cfg)
    return ContrastiveData(
        TripleBatches(triples, encoder, cfg.method.negatives != "inbook"),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        groups=triples.documents if cfg.data.batches == "document" else None,
    )


def num_samples(cfg: Config) -> int:
    """Training triples, also of a file that is not here."""
    if cfg.data.limit is not None:
        return cfg.data.limit
    missing = [
        need for need in requirements(cfg) if need.name.startswith("data") and not need.present
    ]
    return PAPER_TRIPLES if missing else len(train_triples(cfg))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Weights and data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source == "bundled":
        needs.append(bundled_requirement(FOLDER))
    if cfg.data.source == "file":
        hint = "PG19 (11 GB) through TASK=generate; see the card, Data"
        for name in (cfg.data.file, cfg.data.eval_file):
            path = data_root(cfg.data.root) / str(name)
            needs.append(Requirement(f"data: {name}", str(path), path.is_file(), hint))
    return tuple(needs)


def _triple(row: dict[str, Any]) -> Triple:
    """Triple of a row; rows of `TASK=windows` have no ``generated``."""
    texts = row["prefix"], row["gold"], row.get("generated")
    if not all(isinstance(text, str) for text in texts[:2]) or not isinstance(texts[2], str | None):
        raise TypeError("prefix, gold and generated must be texts")
    return Triple(str(row["doc_id"]), *texts)
