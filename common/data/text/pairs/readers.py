"""Reading labelled pairs: official GLUE folders, bundled sets, own files, made-up pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError, nearest
from common.data.lookup import bundled, own_file
from common.data.samplers import drawn_rows, sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_csv, read_jsonl
from common.data.text.lexical import words
from common.data.text.pairs.glue_files import cells_at, glue_file, label_value, plain_table
from common.data.text.pairs.tasks import PairTask
from common.data.text.sets import load_nli_pairs, load_sts

DEV_SHARE = 0.1  # of the premises of the bundled NLI training part
SYNTHETIC = {"train": 192, "dev": 48, "test": 48}
_BLOCK = 512
NEAR = 10  # requests of other intents that hard negatives are drawn from
_LIMIT_STREAM, _SYNTHETIC_STREAM, _INTENT_STREAM = (2**31 + k for k in (51, 52, 53))
_NO_LABEL = "-"  # SNLI: the annotators did not agree


@dataclass(frozen=True)
class PairSet:
    """Pairs with their labels.

    Attributes:
        first: N texts.
        second: N texts.
        labels: (N,) int64 classes, or float64 scores of a regression.
        skipped: rows of the files without a label or with missing cells.

    Raises:
        UserError: no pairs.
    """

    first: list[str]
    second: list[str]
    labels: np.ndarray
    skipped: int = 0

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.labels):
            raise ValueError("need one label for each pair")
        if not self.first:
            raise UserError("a set of pairs is empty")

    def __len__(self) -> int:
        return len(self.first)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs in order."""
        return list(zip(self.first, self.second, strict=True))

    def subset(self, rows: Sequence[int] | np.ndarray) -> "PairSet":
        """The pairs at these places."""
        places = [int(i) for i in rows]
        first, second = [self.first[i] for i in places], [self.second[i] for i in places]
        return PairSet(first, second, self.labels[places], self.skipped)


def read_pairs(
    task: PairTask, part: str, root: str | None = None, files: Sequence[str] = ()
) -> PairSet:
    """One part of a task.

    ``nli``: bundled; a tenth of its training premises, by hash, is the part "dev". ``nli_binary``:
    the same pairs, entailment or not. ``stsb``: bundled, raw scores 0 to 5. ``same_intent``: see
    `intent_pairs`. ``synthetic``: see
    `synthetic_pairs`. ``file``: CSV or TSV files with the columns first, second, label. The others:
    GLUE's TSV files below the data root or ``glue_data`` in it. Rows of files with a blank text or
    without label are left out and counted.

    Args:
        task: see `common.data.text.pairs.tasks.TASKS`.
        part: train, dev, and what else the task has.
        root: ``cfg.data.root``.
        files: of the part, for the task "file".

    Raises:
        UserError: a part that the task has not, missing files, columns or labels that differ,
            scores that are no finite numbers, an own row with more cells than the header.
    """
    if task.name == "synthetic":
        _known(task, part, SYNTHETIC)
        return synthetic_pairs(SYNTHETIC[part], sorted(SYNTHETIC).index(part))
    if task.name in ("nli", "nli_binary"):
        return _bundled_nli(task, part, root)
    if task.name == "stsb":
        _known(task, part, ("train", "dev", "test"))
        pairs = load_sts(root, f"stsb-{part}")
        return PairSet(pairs.first, pairs.second, np.array(pairs.scores))
    if task.name == "same_intent":
        _known(task, part, ("train", "dev", "test"))
        return intent_pairs(part, root)
    if task.name == "file":
        paths = [own_file(name, root, "pairs") for name in files]
        if not paths:
            raise UserError(f"data.task=file: no file is given for the part '{part}'")
    else:
        _known(task, part, task.files)
        paths = [glue_file(root, name) for name in task.files[part]]
    return _from_rows(task, paths)


def limited(data: PairSet, limit: int | None, seed: int) -> PairSet:
    """That many pairs, drawn by the seed, in their order; None: all.

    Raises:
        UserError: there are fewer.
    """
    if limit is None:
        return data
    return data.subset(drawn_rows(len(data), limit, seed, _LIMIT_STREAM, "pairs"))


def synthetic_pairs(count: int, seed: int = 0) -> PairSet:
    """Made-up pairs that have to be aligned word by word, in the order of the classes of NLI.

    The second sentence has three words of the first one (entailment), the same with "not" before
    one of them (contradiction), or one word that the first has not (neutral).
    """
    rng = sample_rng(seed, 0, 0, _SYNTHETIC_STREAM)
    lexicon = [
        "red",
        "small",
        "old",
        "cat",
        "dog",
        "man",
        "sleeps",
        "runs",
        "eats",
        "sees",
        "house",
        "tree",
    ]
    first, second, labels = [], [], rng.integers(0, 3, size=count)
    for label in labels:
        chosen = [lexicon[i] for i in rng.permutation(len(lexicon))]
        premise, kept = chosen[:6], [chosen[i] for i in rng.permutation(6)[:3]]
        if label == 0:
            kept.insert(int(rng.integers(3)), "not")
        elif label == 2:
            kept[int(rng.integers(3))] = chosen[6]
        first.append(" ".join(premise))
        second.append(" ".join(kept))
    return PairSet(first, second, labels.astype(np.int64))


def intent_pairs(part: str, root: str | None = None) -> PairSet:
    """Pairs of bank customers' requests (BANKING77): do both want the same, as in QQP?

    Of every request four pairs (two in the test part): half with another of its intent, a quarter
    with any of another one, a quarter with one of its ten nearest by words among the other intents.
    The parts share no request: those of the test part, but for case and white space, are left out
    of the training requests, a tenth of which, by hash, is the part "dev".

    Source: Casanueva et al. 2020, arXiv 2003.04807 (the requests and their 77 intents).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    test_requests = _requests("test", root)
    if part != "test":
        tested = {_plain(text) for text in test_requests}
        test_requests = {
            text: intent
            for text, intent in _requests("train", root).items()
            if (stable_fraction(text) < DEV_SHARE) == (part == "dev") and _plain(text) not in tested
        }
    texts, intents = list(test_requests), np.array(list(test_requests.values()))
    vectors = TfidfVectorizer(analyzer=words).fit_transform(texts)
    first, second, labels = [], [], []
    for place, text in enumerate(texts):
        if place % _BLOCK == 0:
            likeness = (vectors[place : place + _BLOCK] @ vectors.T).toarray()
        rng = sample_rng(0, 0, place, _INTENT_STREAM)
        same_intent = intents == intents[place]
        scores = np.where(same_intent, -1, likeness[place % _BLOCK]) - 1e-9 * np.arange(len(texts))
        near = np.sort(np.argpartition(-scores, NEAR)[:NEAR])
        same, other = np.flatnonzero(same_intent), np.flatnonzero(~same_intent)
        for _ in range(1 if part == "test" else 2):
            negative = near if rng.random() < 0.5 else other
            for chosen, label in ((same[same != place], 1), (negative, 0)):
                if len(chosen):
                    first.append(text)
                    second.append(texts[int(chosen[rng.integers(len(chosen))])])
                    labels.append(label)
    return PairSet(first, second, np.array(labels, dtype=np.int64))


def _requests(name: str, root: str | None) -> dict[str, str]:
    """Intents of the requests of a bundled part."""
    rows = read_jsonl(bundled("intents", root) / f"banking77-{name}.jsonl.gz", ("text", "intent"))
    return {str(row["text"]): str(row["intent"]) for row in rows}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _from_rows(task: PairTask, paths: Sequence[Path]) -> PairSet:
    first, second, labels, skipped = [], [], [], 0
    for path in paths:
        for where, (a, b, label) in _cells(task, path):
            if not a.strip() or not b.strip() or not label.strip() or label == _NO_LABEL:
                skipped += 1
                continue
            first.append(a)
            second.append(b)
            labels.append(label_value(task.labels, label, f"{path}, {where}"))
    kind = np.float64 if task.kind == "regression" else np.int64
    return PairSet(first, second, np.array(labels, dtype=kind), skipped)


def _cells(task: PairTask, path: Path) -> list[tuple[str, list[str]]]:
    """Where every row stands, and its texts and label; empty where a cell is missing."""
    from_file = task.name == "file"
    if from_file and not path.name.removesuffix(".gz").endswith(".tsv"):
        rows = read_csv(path, task.columns)
        return [
            (f"row {i}", [str(row[c]) for c in task.columns]) for i, row in enumerate(rows, start=1)
        ]
    header, places, lines = plain_table(path, task.columns)
    for number, cells in lines:
        if from_file and len(cells) > len(header):  # a tab in a text: its end would be lost
            raise UserError(
                f"{path}, line {number}: {len(cells)} fields, expected {len(header)}"
                f" ({', '.join(header)})"
            )
    return [(f"line {number}", cells_at(cells, places)) for number, cells in lines]


def _bundled_nli(task: PairTask, part: str, root: str | None) -> PairSet:
    _known(task, part, ("train", "dev", "test"))
    rows = load_nli_pairs(root, "test" if part == "test" else "train")
    if part != "test":  # by premise: all hypotheses of one are on one side
        is_dev = part == "dev"
        rows = [row for row in rows if (stable_fraction(row[0]) < DEV_SHARE) == is_dev]
    names = [row[2] for row in rows]
    if task.kind == "binary":
        names = [name if name == "entailment" else "not_entailment" for name in names]
    labels = np.array([task.labels.index(name) for name in names], dtype=np.int64)
    return PairSet([row[0] for row in rows], [row[1] for row in rows], labels)


def _known(task: PairTask, part: str, parts: object) -> None:
    names = [str(name) for name in parts]  # type: ignore[attr-defined]
    if part not in names:
        raise UserError(f"the task {task.name} has no part '{part}'{nearest(part, names)}")
