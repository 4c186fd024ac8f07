"""Training sets of NV-Embed: labelled and graded data as queries, positives and hard negatives.

Source: Lee et al. 2024, "NV-Embed", section 4, arXiv 2405.17428.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord, TaskKind, as_texts
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl, write_jsonl

ClassPositives = Literal["example", "label"]
_CLASS_STREAM = 2**31 + 21


@dataclass(frozen=True)
class EmbeddingTask:
    """A training set with its instruction.

    Attributes:
        name: unique among the sets of a mixture.
        kind: what it was made of.
        instruction: put before queries; before documents too if `symmetric`.
        records: the examples.
        symmetric: query and document are texts of the same sort.
    """

    name: str
    kind: TaskKind
    instruction: str
    records: Sequence[EmbeddingRecord] = field(repr=False)
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not self.records:
            raise UserError(f"the training set '{self.name}' has no example")

    @property
    def document_instruction(self) -> str:
        """What is put before positives and negatives."""
        return self.instruction if self.symmetric else ""

    def instruction_of(self, record: EmbeddingRecord) -> str:
        """What is put before a record's query: its own instruction, or the set's."""
        return self.instruction if record.instruction is None else record.instruction

    def documents(self) -> list[str]:
        """Distinct positives and negatives, in order of appearance."""
        texts = (text for r in self.records for text in (*r.positives, *r.negatives))
        return list(dict.fromkeys(texts))


def class_records(
    texts: Sequence[str],
    labels: Sequence[str],
    num_negatives: int,
    *,
    positives: ClassPositives = "example",
    label_texts: Mapping[str, str] | None = None,
    binary_as_label: bool = True,
    seed: int = 0,
) -> list[EmbeddingRecord]:
    """Examples of a labelled set.

    "example": the positive is a random other text of the class, the negatives are random texts of
    other classes (fewer, where a text of two classes would be its own negative). "label": they are
    the names of the classes. A class with a single text gives no example in the first case.

    Source: Lee et al. 2024, section 4.2 (non-retrieval data).

    Args:
        texts: N texts.
        labels: N classes, at least two different ones.
        num_negatives: negatives of each example; by name at most the other classes.
        positives: see above.
        label_texts: words for each class; None: its name with spaces for underscores.
        binary_as_label: sets of two classes always use the names of the classes.
        seed: of the draw.

    Raises:
        UserError: fewer than two classes, or lists of unequal length.
    """
    if len(texts) != len(labels):
        raise UserError(f"{len(texts)} texts have {len(labels)} labels")
    members: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    if len(members) < 2:
        raise UserError(f"a labelled set needs at least two classes, got {sorted(members)}")
    names = {c: (label_texts or {}).get(c, c.replace("_", " ")) for c in members}
    by_name = positives == "label" or (binary_as_label and len(members) == 2)
    others = {c: [o for o in sorted(members) if o != c] for c in members}
    rng = sample_rng(seed, 0, 0, _CLASS_STREAM)
    records = []
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        wrong, same = others[label], members[label]
        if by_name:
            chosen = rng.permutation(len(wrong))[:num_negatives]
            negatives = tuple(names[wrong[j]] for j in chosen)
            records.append(EmbeddingRecord(text, (names[label],), negatives, label))
            continue
        draws = rng.random(2 * num_negatives)
        pools = [members[wrong[int(u * len(wrong))]] for u in draws[:num_negatives]]
        negatives = tuple(
            texts[pool[int(u * len(pool))]]
            for pool, u in zip(pools, draws[num_negatives:], strict=True)
        )
        start = int(rng.integers(len(same)))  # the first other text from a random place on
        places = (same[(start + step) % len(same)] for step in range(len(same)))
        right = next((texts[j] for j in places if j != i and texts[j] != text), None)
        if right is not None:
            wrong_texts = tuple(t for t in negatives if t not in (text, right))  # of two classes
            records.append(EmbeddingRecord(text, (right,), wrong_texts, label))
    return records


def with_negatives(
    records: Sequence[EmbeddingRecord], negatives: Sequence[Sequence[str]]
) -> list[EmbeddingRecord]:
    """Records with mined negatives after their own; a text occurs once, and no positive does."""
    merged = []
    for record, mined in zip(records, negatives, strict=True):
        texts = dict.fromkeys((*record.negatives, *mined))
        taken = {record.query, *record.positives}
        merged.append(replace(record, negatives=tuple(t for t in texts if t not in taken)))
    return merged


def write_task(path: str | Path, task: EmbeddingTask) -> None:
    """Write a task as unified records: task, instruction, query, pos, neg, symmetric, label."""
    rows: list[dict[str, Any]] = [
        {
            "task": task.name,
            "kind": task.kind,
            "instruction": task.instruction_of(r),
            "query": r.query,
            "pos": list(r.positives),
            "neg": list(r.negatives),
            "symmetric": task.symmetric,
            "label": r.label,
        }
        for r in task.records
    ]
    write_jsonl(path, rows)


def read_task(path: str | Path) -> EmbeddingTask:
    """Read what `write_task` wrote.

    ``kind`` and ``label`` may be absent, a single text needs no list.

    Rows of different instructions (a set of many made-up tasks) keep them as the records' own.

    Raises:
        UserError: missing file, columns, positives or texts, or rows of several sets.
    """
    rows = read_jsonl(path, ("task", "instruction", "query", "pos", "neg", "symmetric"))
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row["task"], str) and isinstance(row["instruction"], str)):
            raise UserError(f"{path}, line {number}: task and instruction are texts")
    heads = {(r["task"], bool(r["symmetric"])) for r in rows}
    if len(heads) != 1:
        raise UserError(f"{path} must contain the records of one task, but has {len(heads)}")
    name, symmetric = heads.pop()
    instructions = {r["instruction"] for r in rows}
    if symmetric and len(instructions) > 1:
        raise UserError(
            f"{path}: a symmetric task has one instruction, it holds {len(instructions)}"
        )
    try:
        records = [
            EmbeddingRecord(
                r["query"],
                as_texts(r["pos"]),
                as_texts(r["neg"]),
                None if (label := r.get("label")) is None else str(label),  # 0 is a class too
                r["instruction"] if len(instructions) > 1 else None,
            )
            for r in rows
        ]
    except (ValueError, TypeError) as error:  # TypeError: null instead of a list
        raise UserError(f"{path}: {error}") from error
    kind: TaskKind = rows[0].get("kind", "retrieval")
    return EmbeddingTask(
        name, kind, "" if len(instructions) > 1 else instructions.pop(), records, symmetric
    )


def limited(
    records: Sequence[EmbeddingRecord], limit: int | None, seed: int
) -> list[EmbeddingRecord]:
    """At most `limit` records, drawn by the seed, in their order."""
    if limit is None or limit >= len(records):
        return list(records)
    order = sample_rng(seed, 0, 0, _CLASS_STREAM + 1).permutation(len(records))[:limit]
    return [records[i] for i in np.sort(order)]
