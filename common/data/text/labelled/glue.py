"""GLUE's nine tasks with their hidden test parts: official files, a bundled part, own files.

`common.data.text.labelled.tasks` reads GLUE's labelled parts among other sets of texts; here are
scores (STS-B), parts without labels, and what a submission needs.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError, nearest
from common.data.lookup import bundled, own_file
from common.data.samplers import drawn_rows, sample_rng
from common.data.tables import read_csv, read_jsonl
from common.data.text.labelled.glue_tasks import PAIR, GlueTask, Published, Source
from common.data.text.labelled.readers import LabelledSet, Texts, made_up
from common.data.text.pairs.glue_files import cells_at, glue_file, label_value, plain_table
from common.data.text.pairs.readers import synthetic_pairs

# labels that are none: MNLI's "-" (the annotators did not agree), and what the datasets library
# writes for hidden ones (-1, of scores -1.0, or null)
HIDDEN = frozenset({"", "-", "-1", "-1.0", "None"})
SYNTHETIC = {"train": 96, "dev": 36, "dev_mm": 36, "test": 36, "test_mm": 36}
_NOISE_STREAM, _DRAW_STREAM, _SCORE_STREAM = 2**31 + 71, 2**31 + 72, 2**31 + 73


@dataclass(frozen=True)
class Unlabelled:
    """Inputs of a part, without labels.

    Attributes:
        texts: N tuples of one or two texts.
        index: N, as the leaderboard numbers them.
    """

    texts: list[Texts]
    index: list[str]


def read_glue(
    task: GlueTask, part: str, root: str | None = None, source: Published = "official"
) -> LabelledSet:
    """One part with its labels: int64 classes, or float32 scores of STS-B.

    "official": GLUE's TSV files below the data root. "bundled": SST-2's full sentences, of which
    the test part has public labels too. "synthetic": made up. Rows without a label (MNLI's "-" is
    none) or without a text are left out.

    Args:
        task: see `GLUE`.
        part: train, dev, dev_mm of MNLI; test where labels are public.
        root: ``cfg.data.root``.
        source: see above.

    Raises:
        UserError: missing files or columns, other labels, a part without labels, a task that is not
            bundled.
    """
    if source == "synthetic":
        return _synthetic(task, part)
    rows = _rows(task, part, root, source)
    texts, labels = [], []
    for number, (own, label, _) in enumerate(rows):
        if all(own) and label not in ("", "-"):  # MNLI's "-": the annotators did not agree
            texts.append(own)
            labels.append(
                label_value(task.labels, label, f"{task.name}, part {part}, row {number + 1}")
            )
    if not texts:
        raise UserError(
            f"{task.name}: the part '{part}' has no labels; they are hidden in GLUE's test parts:"
            " use eval.part=dev"
        )
    kind = np.float32 if task.is_regression else np.int64
    return LabelledSet(texts, np.array(labels, dtype=kind), task.classes)


def read_part(
    task: GlueTask,
    part: str,
    root: str | None = None,
    source: Source = "official",
    file: str | None = None,
) -> LabelledSet:
    """As `read_glue`, or an own file: CSV, TSV or JSON lines with its columns.

    They are sentence1 (of single texts also sentence), sentence2 of pairs, and label. Rows whose
    label is hidden are left out; so are, with a warning that counts them, rows with a label that
    lack a text.

    Args:
        task: see `read_glue`; so are the others.
        part: any with labels.
        root: of the files.
        source: of the files.
        file: of "file".

    Raises:
        UserError: see `read_glue`; an own file in which no row has both its texts and a label.
    """
    if source != "file":
        return read_glue(task, part, root, source)
    path = own_file(_named(file, part), root, "texts")
    rows = _own_rows(task, path, ("label",))
    told = [(texts, label, i) for i, (texts, label, _) in enumerate(rows) if label]
    if not told:
        raise UserError(f"{path} has no labels that are not hidden: name a file with labels")
    known = [row for row in told if all(text.strip() for text in row[0])]
    if not known:
        raise UserError(f"{path}: all {len(told)} rows with a label lack a text: write them")
    if len(known) < len(told):
        lost = f"{len(told) - len(known)} of {len(told)} rows with a label lack a text"
        warnings.warn(f"{path}: {lost} and are left out", stacklevel=2)
    labels = [label_value(task.labels, label, f"{path}, row {i + 1}") for _, label, i in known]
    kind = np.float32 if task.is_regression else np.int64
    return LabelledSet([texts for texts, _, _ in known], np.array(labels, dtype=kind), task.classes)


def read_inputs(
    task: GlueTask,
    part: str,
    root: str | None = None,
    source: Source = "official",
    file: str | None = None,
) -> Unlabelled:
    """The inputs of a part in the order of the file, empty texts included. No label is looked at.

    Args:
        task: see `read_glue`; so are the others.
        part: any.
        root: of the files.
        source: of the files.
        file: of "file".

    Raises:
        UserError: see `read_glue`.
    """
    if source == "synthetic":
        texts = _synthetic(task, part).texts
        return Unlabelled(texts, [str(i) for i in range(len(texts))])
    if source == "file":
        rows = _own_rows(task, own_file(_named(file, part), root, "texts"))
    else:
        rows = _rows(task, part, root, source)
    return Unlabelled([texts for texts, _, _ in rows], [index for _, _, index in rows])


def is_labelled(
    task: GlueTask,
    part: str,
    root: str | None = None,
    source: Source = "official",
    file: str | None = None,
) -> bool:
    """Whether a part has labels: GLUE's test parts have none, a file has those of its column ``label``.

    Hidden labels are none.

    Args:
        task: see `read_glue`; so are the others.
        part: any.
        root: of the files.
        source: of the files.
        file: of "file".

    Raises:
        UserError: "file" without one, or a file that is not there.
    """
    if source != "file":
        return source != "official" or not part.startswith("test")
    rows = _own_rows(task, own_file(_named(file, part), root, "texts"))
    return any(label for _, label, _ in rows)


def flipped(data: LabelledSet, share: float, seed: int) -> LabelledSet:
    """A copy in which that share of the labels, drawn by the seed, is another class.

    Args:
        data: N examples with classes.
        share: in [0, 1], rounded to whole examples.
        seed: the same flips for all methods.

    Raises:
        UserError: scores, which have no other class.
    """
    if not share:
        return data
    if data.labels.dtype.kind == "f":
        raise UserError("data.noise flips classes; STS-B has scores")
    rng = sample_rng(seed, 0, 0, _NOISE_STREAM)
    labels = data.labels.copy()
    for place in rng.permutation(len(labels))[: round(share * len(labels))]:
        labels[place] = (labels[place] + rng.integers(1, len(data.classes))) % len(data.classes)
    return LabelledSet(data.texts, labels, data.classes)


def drawn(data: LabelledSet, limit: int | None, seed: int) -> LabelledSet:
    """That many examples, drawn by the seed, in their order; None: all.

    Raises:
        UserError: there are fewer.
    """
    if limit is None:
        return data
    return data.subset(drawn_rows(len(data), limit, seed, _DRAW_STREAM, "examples"))


Row = tuple[Texts, str, str]  # texts, label (empty: none), index


def _rows(task: GlueTask, part: str, root: str | None, source: Published) -> list[Row]:
    if part not in task.files and source == "official":
        raise UserError(f"GLUE's {task.name} has no part '{part}'{nearest(part, task.files)}")
    if source == "bundled":
        if task.name != "sst2":
            raise UserError(
                f"GLUE's {task.name} is not bundled, only sst2 is: put the official files below"
                " data.root and set data.source=official"
            )
        rows = read_jsonl(
            bundled("sst2-sentences", root) / f"{part}.jsonl.gz", ("sentence", "label")
        )
        return [((str(r["sentence"]),), str(r["label"]), str(i)) for i, r in enumerate(rows)]
    return _official(task, part, glue_file(root, task.files[part]))


def _official(task: GlueTask, part: str, path: Path) -> list[Row]:
    hidden = part.startswith("test")
    texts = (task.test_columns or task.columns[:-1]) if hidden else task.columns[:-1]
    header, places, lines = plain_table(path, texts if hidden else (*texts, task.columns[-1]))
    first = (
        header.index("index")
        if hidden and "index" in header
        else header.index("id")
        if hidden and "id" in header
        else None
    )
    found = []
    for number, (_, line) in enumerate(lines):
        cells = [cell.strip() for cell in cells_at(line, places)]
        label = "" if hidden else cells.pop()
        found.append((tuple(cells), label, str(number) if first is None else line[first]))
    return found


def _own_rows(task: GlueTask, path: Path, further: tuple[str, ...] = ()) -> list[Row]:
    """Rows of an own file that has the further columns.

    Hidden and absent labels are empty, as is null.
    """
    found: list[Row] = []
    for number, row in enumerate(read_jsonl(path) if ".jsonl" in path.name else read_csv(path)):
        single = PAIR[0] if PAIR[0] in row and "sentence" not in row else "sentence"
        names = PAIR if task.num_texts == 2 else (single,)
        for name in (*names, *further):
            if name not in row:
                raise UserError(f"{path}, row {number + 1}: no column '{name}'{nearest(name, row)}")
        label = str(row.get("label")).strip()
        texts = tuple("" if row[name] is None else str(row[name]) for name in names)
        found.append((texts, "" if label in HIDDEN else label, str(row.get("idx", number))))
    return found


def _named(file: str | None, part: str) -> str:
    if file is None:
        raise UserError(f"data.source=file: no file is named for the part '{part}'")
    return file


def _synthetic(task: GlueTask, part: str) -> LabelledSet:
    """Made-up texts of two or three topics, or pairs whose second text shares words of the first."""
    if part not in SYNTHETIC:
        raise UserError(f"the made-up {task.name} has no part '{part}'{nearest(part, SYNTHETIC)}")
    if task.num_texts == 1:
        return made_up(SYNTHETIC[part], task.labels, part)
    pairs = synthetic_pairs(SYNTHETIC[part], sorted(SYNTHETIC).index(part))
    if task.is_regression:
        noise = sample_rng(0, 0, len(part), _SCORE_STREAM).random(len(pairs))
        scores = np.array([1.0, 4.0, 2.0])[pairs.labels] + noise
        return LabelledSet(list(pairs.pairs), scores.astype(np.float32), task.classes)
    return LabelledSet(list(pairs.pairs), pairs.labels % len(task.labels), task.classes)
