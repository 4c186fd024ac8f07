"""GLUE's nine tasks with their hidden test parts: official files, a bundled part, own files.

`common.data.text.labelled.tasks` reads GLUE's labelled parts among other sets of texts; here are
scores (STS-B) and parts without labels.
"""

from pathlib import Path

import numpy as np

from common.config import UserError, nearest
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl
from common.data.text.labelled.glue_tasks import GlueTask, Published
from common.data.text.labelled.readers import LabelledSet, Texts, made_up
from common.data.text.pairs.glue_files import cells_at, glue_file, label_value, plain_table
from common.data.text.pairs.readers import synthetic_pairs

_SCORE_STREAM = 2**31 + 73
SYNTHETIC = {"train": 96, "dev": 36, "dev_mm": 36, "test": 36, "test_mm": 36}


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
        return synthetic_glue(task, part)
    rows = glue_rows(task, part, root, source)
    texts, labels = [], []
    for number, (cells, label, _) in enumerate(rows):
        if all(cells) and label not in ("", "-"):  # MNLI's "-": the annotators did not agree
            texts.append(cells)
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


Row = tuple[Texts, str, str]  # texts, label (empty: none), index


def glue_rows(task: GlueTask, part: str, root: str | None, source: Published) -> list[Row]:
    """Rows of a part as its file has them, of official and bundled sources.

    Raises:
        UserError: see `read_glue`.
    """
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
    rows = []
    for number, (_, line) in enumerate(lines):
        cells = [cell.strip() for cell in cells_at(line, places)]
        label = "" if hidden else cells.pop()
        rows.append((tuple(cells), label, str(number) if first is None else line[first]))
    return rows


def synthetic_glue(task: GlueTask, part: str) -> LabelledSet:
    """Synthetic texts of two or three topics, or pairs whose second text repeats words."""
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
