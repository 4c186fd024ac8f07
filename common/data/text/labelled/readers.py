"""Reading texts with classes: GLUE and SuperGLUE, bundled requests, shifted words, own files."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError, nearest
from common.data.lines import read_lines
from common.data.lookup import bundled, data_root, own_file, require
from common.data.offline import content_key
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_csv, read_jsonl
from common.data.text.labelled.tasks import LabelledTask
from common.data.text.pairs.glue_files import cells_at, glue_file, plain_table
from common.data.text.pairs.readers import read_pairs
from common.data.text.pairs.tasks import TASKS as PAIR_TASKS
from common.data.text.sets import load_sentences

Texts = tuple[str, ...]
SHIFT_WORDS = (5, 20)  # words of a sentence of bigram_shift
SHIFT_PARTS = {"train": 4000, "test": 2000}  # sentences
SYNTHETIC = {"train": 120, "test": 60}
_SHIFT_STREAM, _SYNTHETIC_STREAM = 2**31 + 61, 2**31 + 62
_SUPER_GLUE = "https://super.gluebenchmark.com/tasks"
_TOPICS = (
    ("cat", "dog", "horse", "fish", "bird"),
    ("rain", "snow", "wind", "cloud", "storm"),
    ("bank", "coin", "price", "card", "loan"),
)
_COMMON = ("the", "a", "some", "new", "old", "we", "see", "like", "today", "again", "small", "good")


@dataclass(frozen=True)
class LabelledSet:
    """Texts with classes.

    Attributes:
        texts: N tuples of one or two texts.
        labels: (N,) int64.
        classes: names, in the order of the logits.

    Raises:
        UserError: no texts.
    """

    texts: list[Texts]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError("need one label for each text")
        if not self.texts:
            raise UserError("a set of labelled texts is empty")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def ids(self) -> list[str]:
        """Key of a text in caches, whatever subset it is in."""
        return [content_key(texts) for texts in self.texts]

    def subset(self, rows: Sequence[int] | np.ndarray) -> "LabelledSet":
        """The texts at these places."""
        places = [int(i) for i in rows]
        return LabelledSet([self.texts[i] for i in places], self.labels[places], self.classes)


def read_labelled(
    task: LabelledTask, part: str, root: str | None = None, files: Sequence[str] = ()
) -> LabelledSet:
    """One part of a task.

    ``banking77``, ``banking10`` and ``snips`` are bundled, without the training texts that are also
    in the test part; see `shifted` for ``bigram_shift`` and
    `made_up` for ``synthetic``. ``file``: CSV or TSV with the columns of `own_task`, white space
    around a cell is none of it. The others: the official files of GLUE and SuperGLUE below the data
    root.

    Args:
        task: see `common.data.text.labelled.tasks.TASKS`.
        part: train, or the task's `test_part`.
        root: ``cfg.data.root``.
        files: of the part, for the task "file".

    Raises:
        UserError: a part that the task has not, missing files, columns or classes that differ, an
            own row with a blank text or label.
    """
    if task.name == "synthetic":
        return made_up(_size(task, part, SYNTHETIC), task.labels, part)
    if task.name == "bigram_shift":
        return shifted(_size(task, part, SHIFT_PARTS), part, task.labels, root)
    if task.name in ("banking77", "banking10", "snips"):
        _size(task, part, {"train": 0, "test": 0})
        source = "snips" if task.name == "snips" else "banking77"
        rows = _requests(source, part, root)
        if part == "train":  # some of them are in both files
            tested = {texts for texts, _ in _requests(source, "test", root)}
            rows = [row for row in rows if row[0] not in tested]
        labels = task.labels or tuple(sorted({label for _, label in rows}))
        return _set([row for row in rows if row[1] in labels], labels, f"{source}-{part}")
    if task.name in PAIR_TASKS:
        data = read_pairs(PAIR_TASKS[task.name], part, root)
        return LabelledSet(list(data.pairs), data.labels.astype(np.int64), task.labels)
    if task.name == "file":
        if not files:
            raise UserError(f"data.task=file: no file is given for the part '{part}'")
        table = [row for name in files for row in _table(task, own_file(name, root, "texts"))]
        return _set(table, task.labels or tuple(sorted({label for _, label in table})), files[0])
    _size(task, part, dict.fromkeys(task.files, 0))
    return _set(_official(task, task.files[part], root), task.labels, task.files[part])


def distinct(data: LabelledSet) -> LabelledSet:
    """Each text once, with the first of its labels: no text is on two sides of a draw."""
    first = {texts: place for place, texts in reversed(list(enumerate(data.texts)))}
    return data.subset(sorted(first.values()))


def shifted(count: int, part: str, labels: tuple[str, ...], root: str | None = None) -> LabelledSet:
    """Sentences as they were written, and with two adjacent words swapped, half of each.

    They are of the held-back part of ``sentences-en``, which no bundled model has read; training
    and test sentences differ by hash. The first word is left alone: its capital would tell.

    Source: Conneau et al. 2018, section 2 (BShift), arXiv 1805.01070.
    """
    rows: list[tuple[Texts, str]] = []
    low, high = SHIFT_WORDS
    for text in load_sentences(root, split="test"):
        words = text.split()
        side = "test" if stable_fraction(f"shift {text}") < 0.35 else "train"
        if side != part or not low <= len(words) <= high:
            continue
        rng = sample_rng(0, 0, len(rows), _SHIFT_STREAM)
        places = [i for i in range(1, len(words) - 1) if words[i].lower() != words[i + 1].lower()]
        if not places:
            continue
        moved = len(rows) % 2
        if moved:
            i = places[int(rng.integers(len(places)))]
            words[i], words[i + 1] = words[i + 1], words[i]
        rows.append(((" ".join(words),), labels[moved]))
        if len(rows) == count:
            break
    return _set(rows, labels, "sentences-en")


def made_up(count: int, labels: tuple[str, ...], part: str) -> LabelledSet:
    """Made-up texts: two words of a topic among common ones."""
    rng = sample_rng(0, 0, len(part), _SYNTHETIC_STREAM)
    rows: list[tuple[Texts, str]] = []
    for i in range(count):
        topic = _TOPICS[i % len(labels)]
        words = [topic[k] for k in rng.permutation(len(topic))[:2]]
        words += [_COMMON[k] for k in rng.permutation(len(_COMMON))[:6]]
        text = " ".join(words[k] for k in rng.permutation(len(words)))
        rows.append(((text,), labels[i % len(labels)]))
    return _set(rows, labels, "synthetic")


def _requests(source: str, part: str, root: str | None) -> list[tuple[Texts, str]]:
    rows = read_jsonl(bundled("intents", root) / f"{source}-{part}.jsonl.gz", ("text", "intent"))
    return [((" ".join(str(row["text"]).split()),), str(row["intent"])) for row in rows]


def _set(rows: Sequence[tuple[Texts, str]], labels: tuple[str, ...], where: object) -> LabelledSet:
    class_of = {label: place for place, label in enumerate(labels)}
    for _, label in rows:
        if label not in class_of:
            raise UserError(f"{where}: label '{label}'{nearest(label, labels)}")
    gold = np.array([class_of[label] for _, label in rows], dtype=np.int64)
    return LabelledSet([texts for texts, _ in rows], gold, labels)


def _size(task: LabelledTask, part: str, sizes: dict[str, int]) -> int:
    if part not in sizes:
        raise UserError(f"the task {task.name} has no part '{part}'{nearest(part, sizes)}")
    return sizes[part]


def _official(task: LabelledTask, name: str, root: str | None) -> list[tuple[Texts, str]]:
    if not name.endswith(".jsonl"):
        _, places, rows = plain_table(glue_file(root, name), task.columns)
        cells = [cells_at(row, places) for _, row in rows]
        return [((text.strip(),), label) for text, label in cells if text.strip() and label]
    base = data_root(root)
    short = base / name
    path = require(
        short if short.is_file() else base / "super_glue" / name,
        what=f"SuperGLUE's {name}",
        layout="super_glue/{CB,BoolQ,WiC}/{train,val}.jsonl",
        source=_SUPER_GLUE,
        size="60 MB in all",
    )
    labelled: list[tuple[Texts, str]] = []
    for row in read_jsonl(path, task.columns):
        first, second, label = (str(row[column]) for column in task.columns)
        if task.name == "wic":  # the word whose meaning is asked for
            first = f"{row['word']}: {first}"
        labelled.append(((first, second), label.lower()))
    return labelled


def _table(task: LabelledTask, path: Path) -> list[tuple[Texts, str]]:
    rows: list[tuple[Texts, str]] = []
    for number, row in enumerate(read_csv(path, task.columns), start=1):
        cells = [str(row[column]).strip() for column in task.columns]
        if "" in cells:
            lacking = task.columns[cells.index("")]
            raise UserError(f"{path}, row {number}: no {lacking}: write it, or leave the row out")
        rows.append((tuple(cells[:-1]), cells[-1]))
    return rows


def texts_of_lines(name: str | None, num_texts: int, key: str) -> list[Texts]:
    """One text per line of the user's file, or two separated by a tab.

    Args:
        name: of the file.
        num_texts: 1 or 2.
        key: of the config, for messages.

    Raises:
        UserError: no file, one that is not UTF-8, or lines of another number of texts.
    """
    if name is None:
        raise UserError(f"{key}: give a text file with one text per line")
    if not Path(name).is_file():
        raise UserError(f"{key}: there is no text file {name}")
    whole = read_lines(Path(name))  # a text may hold other separators than line feeds
    filled = [place for place, line in enumerate(whole, start=1) if line.strip()]
    if filled and (blank := filled[-1] - len(filled)):
        warnings.warn(f"{name}: {blank} blank lines between texts are left out", stacklevel=2)
    lines = [whole[place - 1] for place in filled]
    rows: list[Texts] = [tuple(line.split("\t")) if num_texts == 2 else (line,) for line in lines]
    if not rows or any(len(row) != num_texts for row in rows):
        what = "one text per line" if num_texts == 1 else "two texts per line, separated by a tab"
        raise UserError(f"{key}: {name} must contain {what}")
    return rows
