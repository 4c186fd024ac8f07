"""Examples of tasks as token rows with labels: first pieces of words, spans, gates.

# B examples, L tokens, S slots
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.samplers import Key, sample_rng
from common.data.text.masking import IGNORED
from projects.space2.dialog_metrics import LabelMaps, told_value
from projects.space2.dialogs.encoding import DialogTokenizer, Row, padded_with
from projects.space2.dialogs.tasks import Example
from projects.space2.heads import GATES, TaskHead

_MASK_STREAM = 2**31 + 74
TRUE, FALSE, WHATEVER = ("true", "yes"), ("false", "no"), ("dontcare", "don't care")


class TaskRow(NamedTuple):
    """An example as the network reads it; `labels` by name of the logits they belong to."""

    row: Row
    labels: dict[str, np.ndarray]
    aux: np.ndarray  # (2 S,), of dialogue states


def task_row(
    example: Example, texts: DialogTokenizer, head: TaskHead, maps: LabelMaps | None = None
) -> TaskRow:
    """Tokens and labels of an example; `maps` holds other ways to write values of states.

    Raises:
        UserError: a class or tag that the head does not have.
    """
    if example.words:
        row, first = word_row(example.words, texts)
    else:
        utterances = texts.utterances(example.turns)
        row, first = texts.row(utterances, example.turns[-1].user), np.empty(0, dtype=np.int64)
    labels: dict[str, np.ndarray] = {}
    if head.intents is not None:
        labels["intent"] = np.array(_place(head.names, example.intent))
    if head.tags is not None:
        tags = np.full(len(row.ids), IGNORED, dtype=np.int64)
        kept = first >= 0  # words that were cut have no piece
        tags[first[kept]] = [
            _place(head.tag_names, t) for t, k in zip(example.tags, kept, strict=True) if k
        ]
        labels["tags"] = tags
    aux: np.ndarray = np.zeros(0)
    if head.kind == "dst":
        labels |= state_labels(example, row, texts, head.slots, maps)
        aux = np.array(
            [[s in d for s in head.slots] for d in (example.told, example.before)], dtype=np.float32
        ).ravel()
    return TaskRow(row, labels, aux)


def _place(names: Sequence[str], name: str) -> int:
    if name not in names:
        raise UserError(f"{name!r} does not occur in the training part: {len(names)} known names")
    return names.index(name)


def word_row(words: Sequence[str], texts: DialogTokenizer) -> tuple[Row, np.ndarray]:
    """An utterance word by word, and the place of each word's first piece.

    -1 of words that were cut.
    """
    split = texts.tokenizer(list(words), add_special_tokens=False)["input_ids"]
    pieces = [ids or [texts.tokenizer.unk_token_id] for ids in split]
    begin, end = texts.marks[0]
    flat = [i for ids in pieces for i in ids]
    first = np.cumsum([0, *(len(ids) for ids in pieces[:-1])]) + 1
    cut = max(0, len(flat) - (texts.max_length - 2))
    ids = np.array([begin, *flat[cut:], end], dtype=np.int64)
    marks = np.zeros(len(ids), dtype=bool)
    marks[[0, -1]] = True
    zeros = np.zeros(len(ids), dtype=np.int64)
    row = Row(ids, np.arange(len(ids)), zeros, zeros + 1, np.zeros(len(ids), dtype=bool), marks)
    return row, np.where(first - cut > 0, first - cut, -1)


def state_labels(
    example: Example,
    row: Row,
    texts: DialogTokenizer,
    slots: Sequence[str],
    maps: LabelMaps | None = None,
) -> dict[str, np.ndarray]:
    """Gate, span and reference of every slot that this turn changes.

    A value, or a variant of it in `maps`, is looked for in the user's words, then in what the
    system told of the slot, then among the other slots; one that is nowhere keeps the gate "none",
    as TripPy treats it.
    """
    count, variants = len(slots), maps or {}
    pointers = {name: np.full(count, IGNORED, dtype=np.int64) for name in ("start", "end", "refer")}
    gates = np.zeros(count, dtype=np.int64)
    for s, slot in enumerate(slots):
        value = example.state.get(slot)
        if value is None or value == example.before.get(slot):
            continue
        lower, ways = value.lower(), (value, *variants.get(value, ()))
        spans = (
            () if lower in (*TRUE, *FALSE, *WHATEVER) else (find_span(w, row, texts) for w in ways)
        )
        span = next((s for s in spans if s is not None), None)
        partner = next((o for o in slots if o != slot and example.before.get(o) in ways), None)
        if lower in WHATEVER:
            gate = "dontcare"
        elif lower in TRUE:
            gate = "true"
        elif lower in FALSE:
            gate = "false"
        elif span is not None:
            gate = "copy_value"
            pointers["start"][s], pointers["end"][s] = span
        elif slot in example.told and told_value(value, example.told[slot], maps) == value:
            gate = "inform"
        elif partner is not None:
            gate = "refer"
            pointers["refer"][s] = slots.index(partner)
        else:
            gate = "none"
        gates[s] = GATES.index(gate)
    return {"gate": gates, **pointers}


def find_span(value: str, row: Row, texts: DialogTokenizer) -> tuple[int, int] | None:
    """First and last token of a value's last occurrence in the current utterance."""
    piece = texts.tokenizer(value, add_special_tokens=False)["input_ids"]
    size, ids = len(piece), row.ids.tolist()
    current_turn = np.flatnonzero(row.turns == 1)
    for start in range(int(current_turn[-1]) - size, int(current_turn[0]) - 1, -1) if size else ():
        if ids[start : start + size] == piece:
            return start, start + size - 1
    return None


class TaskBatches(Dataset[Any]):
    """Map-style set of whole batches.

    Args:
        examples: N.
        texts: tokenizer.
        head: its names give the labels.
        seed: of the hidden tokens.
        maps: other ways to write values of states.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        texts: DialogTokenizer,
        head: TaskHead,
        seed: int,
        maps: LabelMaps | None = None,
    ) -> None:
        self.examples, self.texts, self.seed = list(examples), texts, seed
        self.rows = [task_row(e, texts, head, maps) for e in examples]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Batch of (index, epoch) keys."""
        rows = [self.rows[i] for i, _ in keys]
        pairs = [
            self.texts.masked(r.row, sample_rng(self.seed, epoch, i, _MASK_STREAM))
            for r, (i, epoch) in zip(rows, keys, strict=True)
        ]
        batch = collate(rows, self.texts)
        batch["masked"] = padded_with([ids for ids, _ in pairs], self.texts.pad_id)[0]
        batch["words"] = padded_with([labels for _, labels in pairs], IGNORED)[0]
        return batch


def collate(rows: Sequence[TaskRow], texts: DialogTokenizer) -> dict[str, Any]:
    """Inputs, labels by name and auxiliary features of B rows."""
    labels: dict[str, Tensor] = {}
    for name in rows[0].labels:
        arrays = [r.labels[name] for r in rows]
        labels[name] = (
            padded_with(arrays, IGNORED)[0]
            if name == "tags"
            else torch.from_numpy(np.stack(arrays))
        )
    aux = torch.from_numpy(np.stack([r.aux for r in rows])).float()
    return {"inputs": texts.pad([r.row for r in rows]), "targets": labels, "aux": aux}
