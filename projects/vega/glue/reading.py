"""GLUE's parts for prediction and submission."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError, nearest
from common.data.lookup import own_file
from common.data.samplers import drawn_rows, sample_rng
from common.data.tables import read_csv, read_jsonl
from common.data.text.labelled.glue import Row, glue_rows, read_glue, synthetic_glue
from common.data.text.labelled.glue_tasks import PAIR, GlueTask, Source
from common.data.text.labelled.readers import LabelledSet, Texts
from common.data.text.pairs.glue_files import label_value

# labels that are none: MNLI's "-" (the annotators did not agree), and what the datasets library
# writes for hidden ones (-1, of scores -1.0, or null)
HIDDEN = frozenset({"", "-", "-1", "-1.0", "None"})
_NOISE_STREAM, _DRAW_STREAM = 2**31 + 71, 2**31 + 72


@dataclass(frozen=True)
class Unlabelled:
    """Inputs of a part, without labels.

    Attributes:
        texts: N tuples of one or two texts.
        index: N, as the leaderboard numbers them.
    """

    texts: list[Texts]
    index: list[str]


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
        raise UserError(f"{path} has no labels that are not hidden: give a file with labels")
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
        texts = synthetic_glue(task, part).texts
        return Unlabelled(texts, [str(i) for i in range(len(texts))])
    if source == "file":
        rows = _own_rows(task, own_file(_named(file, part), root, "texts"))
    else:
        rows = glue_rows(task, part, root, source)
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
        raise UserError(f"data.source=file: no file is given for the part '{part}'")
    return file
