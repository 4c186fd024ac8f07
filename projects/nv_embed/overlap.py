"""`make run TASK=overlap`: training texts that an evaluation holds, or nearly so, are left out.

Source: Lee et al. 2024, "NV-Embed", section 4 (overlap with MTEB removed; by a BM25 similarity for
Emotion and AmazonCounterfactual), arXiv 2405.17428.
Deviation: similarity and threshold are not printed. Here it is the BM25 score of the training text
against an evaluation text, as a share of the highest that the evaluation text reaches itself.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.data.lines import read_lines
from common.data.lookup import data_root
from common.data.retrieval.readers import read_labels, read_table
from common.data.tables import write_jsonl
from common.engine.workspace import Workspace
from common.evaluation.matrices import blocks
from common.evaluation.retrieval.bm25 import BM25
from projects.nv_embed.config import Config
from projects.nv_embed.data.records import EmbeddingTask, write_task
from projects.nv_embed.data.training_sets import described, read_set

ROWS = 256  # training texts that are compared with all evaluation texts at a time


def overlap(cfg: Config, workspace: Workspace) -> Path:
    """Write the sets named in ``overlap.texts`` without the examples that overlap.

    The folder of the files.

    An example overlaps by its query, and in a symmetric set (STS) by its positives too: they are
    texts of the same sort.

    Raises:
        UserError: no set is named, one that the config lacks or that has no file, an unreadable
            file, or an output that is an input.
    """
    options = cfg.overlap
    if not options.texts:
        raise UserError(
            "give the evaluation texts of a set: overlap.texts={emotion: emotion-test.jsonl}"
        )
    folder = workspace.folder(".") if options.output is None else Path(options.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    tests = [set_place(cfg, place) for place in options.texts.values()]
    spare_inputs(cfg, folder, options.texts, tests, "overlap.output")
    for name, place in options.texts.items():
        if name not in cfg.data.sets:
            raise UserError(f"overlap.texts: data.sets has no set '{name}'")
        tested = evaluation_texts(set_place(cfg, place))
        source = cfg.data.sets[name]
        layout = described(name, source).layout
        if layout in ("labelled", "clusters"):
            if source.path is None:
                raise UserError(
                    f"overlap.texts: give data.sets.{name}.path, the file to be cleaned"
                )
            texts, labels = read_labels(set_place(cfg, source.path), layout)
            kept = ~overlapping(texts, tested, options.threshold)
            rows = [{"text": texts[i], "label": labels[i]} for i in np.flatnonzero(kept)]
            write_jsonl(folder / f"{name}.jsonl", rows)
        else:
            task = read_set(cfg, name, source)
            kept = ~overlapping([r.query for r in task.records], tested, options.threshold)
            if task.symmetric:
                texts = list(dict.fromkeys(text for r in task.records for text in r.positives))
                removed = overlapping(texts, tested, options.threshold)
                gone = {text for text, is_in in zip(texts, removed, strict=True) if is_in}
                kept &= np.array([gone.isdisjoint(r.positives) for r in task.records])
            records = [task.records[i] for i in np.flatnonzero(kept)]
            write_task(
                folder / f"{name}.jsonl",
                EmbeddingTask(name, task.kind, task.instruction, records, task.symmetric),
            )
        workspace.say(
            f"{name}: {int((~kept).sum())} of {len(kept)} examples overlap with {place},"
            f" {int(kept.sum())} kept"
        )
    return folder


def set_place(cfg: Config, path: str) -> Path:
    """Where a set or its evaluation lies, as `read_set` finds it: as named, or below the data root."""
    named = Path(path).expanduser()
    return named if named.exists() else data_root(cfg.data.root) / named


def spare_inputs(
    cfg: Config, folder: Path, names: Iterable[str], further: Sequence[Path], option: str
) -> None:
    """Refuse a folder where a written set would take the place of a file that is read.

    Args:
        cfg: the experiment's config, whose sets are read.
        folder: ``<name>.jsonl`` of every name is written here.
        names: of the sets that are written.
        further: files that are read besides.
        option: what names the folder.

    Raises:
        UserError: see above.
    """
    read = [
        set_place(cfg, source.path) for source in cfg.data.sets.values() if source.path is not None
    ]
    there = [path for path in (*read, *further) if path.exists()]
    for target in (folder / f"{name}.jsonl" for name in names):
        if target.exists() and any(target.samefile(path) for path in there):
            raise UserError(
                f"{target} is read by this config and would be overwritten: give another folder in "
                f"{option}"
            )


def evaluation_texts(path: Path) -> list[str]:
    """Texts of a file: lines of ``.txt``, or a table's columns text, query, first and second.

    Raises:
        UserError: a missing or unreadable file, or one without texts.
    """
    if path.suffix == ".txt":
        texts = [line.strip() for line in read_lines(path)]
    else:
        columns = ("text", "query", "first", "second")
        texts = [str(row[c]) for row in read_table(path) for c in columns if row.get(c)]
    texts = [text for text in texts if text]
    if not texts:
        raise UserError(
            f"{path} has no texts: lines, or a column 'text', 'query', 'first' or 'second'"
        )
    return texts


def overlapping(
    texts: Sequence[str], tested: Sequence[str], threshold: float | None
) -> NDArray[np.bool_]:
    """Which training texts an evaluation holds, or comes near to.

    Args:
        texts: N training texts.
        tested: M evaluation texts.
        threshold: in (0, 1], similarity from which a text overlaps; None: only equal texts do, case
            and space aside.

    Returns:
        (N,) bool.
    """
    seen = {_normal(text) for text in tested}
    equal = np.array([_normal(text) in seen for text in texts], dtype=bool)
    if threshold is None or equal.all():
        return equal
    index = BM25(tested)  # in memory: scores of all evaluation texts are needed at once
    ceiling = (
        index.search(tested, k=1).scores[:, 0].numpy()
    )  # the most that its words can score here
    bound = np.maximum(ceiling, 1e-12)
    # with all evaluation texts: by raw scores a long text is nearer to long ones
    for rows in blocks(len(texts), ROWS):
        shares = index.scores(texts[rows]).numpy() / bound
        equal[rows] |= shares.max(axis=1) >= threshold - 1e-9
    return equal


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
