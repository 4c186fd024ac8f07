"""Examples of the four kinds of dialogue tasks: intents, slots, parses, states.

DialoGLUE's files and bundled sets.

Source: Mehri et al. 2020, "DialoGLUE", released `data_readers.py`, arXiv 2009.13570.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.damage import reading
from common.data.lines import read_lines
from common.data.lookup import bundled, require
from common.data.splits import stable_fraction
from common.data.tables import read_csv, read_jsonl
from projects.space2.dialogs import turns as sets
from projects.space2.dialogs.multiwoz import SLOTS, multiwoz, told_values
from projects.space2.dialogs.turns import Corpus, Part, Turn, span_labels

Kind = Literal["intent", "slot", "top", "dst"]
_FILES: dict[str, dict[Part, str]] = {
    "intent": {"train": "train.csv", "dev": "val.csv", "test": "test.csv"},
    "slot": {"train": "train.json", "dev": "val.json", "test": "test.json"},
    "top": {"train": "train.txt", "dev": "eval.txt", "test": "test.txt"},
    "dst": {"train": "train_dials.json", "dev": "val_dials.json", "test": "test_dials.json"},
}


@dataclass(frozen=True)
class Example:
    """One current utterance with its context and what is to be told of it.

    Attributes:
        turns: utterances up to the current one.
        intent: class; "" where the task has none.
        words: of the utterance, split at spaces, for tags; () elsewhere.
        tags: IOB tag of each word.
        dialog: name of the dialogue.
        state: {slot: value} after the turn.
        before: state before it.
        told: {slot: value} that the system told in the turn before.
    """

    turns: tuple[Turn, ...]
    intent: str = ""
    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    dialog: str = ""
    state: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)


def read_examples(
    kind: Kind,
    source: str,
    part: Part,
    root: str | None = None,
    folder: Path | None = None,
    seed: int = 0,
    file: str | None = None,
    delexicalize: bool = False,
) -> list[Example]:
    """Examples of a part.

    Args:
        kind: of the task.
        source: "bundled" (50 intents of CLINC150, Restaurants-8k, SNIPS, SGD), "folder" or
            "synthetic".
        part: train, dev or test.
        root: ``cfg.data.root``.
        folder: with source "folder": DialoGLUE's files of the task.
        seed: of "synthetic".
        file: with source "folder": another file of the part, such as train_10.csv.
        delexicalize: states of a folder: see `multiwoz`.

    Raises:
        UserError: missing files, or files of another form.
    """
    if source == "folder":
        assert folder is not None
        return _from_folder(kind, folder, file or _FILES[kind][part], delexicalize)
    if kind == "intent":
        corpus = (
            sets.clinc(part, False, root) if source == "bundled" else sets.synthetic(part, seed)
        )
        return [
            Example(d.turns[: t + 1], d.turns[t].intent)
            for d in corpus.dialogs
            for t in range(len(d.turns))
            if d.turns[t].intent
        ]
    if kind == "dst":
        corpus = _state_corpus(part, root) if source == "bundled" else sets.synthetic(part, seed)
        return frame_states(corpus)
    if source == "synthetic":
        return _synthetic_tags(part, seed)
    if kind == "top":
        name = {"train": "train", "dev": "valid", "test": "test"}[part]
        rows = read_jsonl(
            bundled("intents", root) / f"snips-slots-{name}.jsonl.gz", ("text", "intent", "slots")
        )
        return [tagged(r["text"].split(), r["slots"].split(), r["intent"]) for r in rows]
    file = "test" if part == "test" else "train"
    rows = read_jsonl(bundled("intents", root) / f"restaurant8k-{file}.jsonl.gz", ("userInput",))
    if part != "test":
        rows = [
            r for r in rows if (stable_fraction(r["userInput"]["text"]) < 0.1) == (part == "dev")
        ]
    return [span_example(r) for r in rows]


def tagged(words: Sequence[str], tags: Sequence[str], intent: str = "") -> Example:
    """An utterance with a tag for each word.

    Raises:
        UserError: another number of tags than words, or none.
    """
    if len(words) != len(tags) or not words:
        raise UserError(f"{len(tags)} tags for {len(words)} words: {' '.join(words)!r}")
    return Example((Turn(True, " ".join(words)),), intent, tuple(words), tuple(tags))


def span_example(row: dict[str, Any]) -> Example:
    """A row of Restaurants-8k or DSTC8-SGD as DialoGLUE reads it.

    Requested slots stand in front of the text; every word that occurs in a value has its slot, also
    elsewhere in the text; B- begins a run of words of one slot.

    >>> row = {"userInput": {"text": "for two"}, "context": {"requestedSlots": ["people"]},
    ...        "labels": [{"slot": "people", "valueSpan": {"startIndex": 4, "endIndex": 7}}]}
    >>> span_example(row).words, span_example(row).tags
    (('people', 'for', 'two'), ('O', 'O', 'B-people'))
    """
    text = row["userInput"]["text"]
    slot_of = {
        word: slot for slot, start, end in span_labels(row) for word in text[start:end].split()
    }
    for asked in row.get("context", {}).get("requestedSlots", ()):
        text = f"{asked} {text}"
    tags, current = [], None
    words = text.split()
    for word in words:
        slot = slot_of.get(word)
        tags.append("O" if slot is None else f"{'I' if slot == current else 'B'}-{slot}")
        current = slot
    return tagged(words, tags)


def frame_states(corpus: Corpus, slots: Sequence[str] | None = None) -> list[Example]:
    """Dialogue states that the users' trees add up to: the last value of each domain-slot.

    Args:
        corpus: of dialogues.
        slots: those that are tracked; None: all.
    """
    examples = []
    for dialog in corpus.dialogs:
        state: dict[str, str] = {}
        for t, turn in enumerate(dialog.turns):
            if turn.user:
                before = dict(state)
                state |= {s: v for s, v in _values(turn).items() if slots is None or s in slots}
                stated = told_values(dialog.turns[t - 1].frame, slots) if t else {}
                examples.append(
                    Example(
                        dialog.turns[: t + 1],
                        dialog=dialog.name,
                        state=dict(state),
                        before=before,
                        told=stated,
                    )
                )
    return examples


def _values(turn: Turn) -> dict[str, str]:
    return {
        f"{domain}-{slot}": str(values[-1]["value"])
        for domain, intents in turn.frame.items()
        for slots in intents.values()
        for slot, values in slots.items()
        if values
    }


def _state_corpus(part: Part, root: str | None) -> Corpus:
    """SGD's nine services, their dialogues by hash: eight, one and one in ten."""
    bounds = {"train": (0.0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1.0)}[part]
    dialogs = sets.sgd("train", root).dialogs
    return Corpus(
        "sgd", tuple(d for d in dialogs if bounds[0] <= stable_fraction(d.name) < bounds[1])
    )


def _synthetic_tags(part: Part, seed: int) -> list[Example]:
    examples = []
    for dialog in sets.synthetic(part, seed).dialogs:
        words = dialog.turns[0].text.split()
        tags = ["B-area" if i == len(words) - 1 else "O" for i in range(len(words))]
        examples.append(tagged(words, tags, dialog.turns[0].intent))
    return examples


def _from_folder(kind: Kind, folder: Path, file: str, delexicalize: bool) -> list[Example]:
    path = require(
        folder / file,
        what=f"DialoGLUE, {folder.name}",
        layout=", ".join(_FILES[kind].values()),
        source="alexa/dialoglue, data_utils/dialoglue",
        size="60 MB in all",
    )
    with reading(path, "DialoGLUE file"):
        if kind == "intent":
            rows = read_csv(path, ("text", "category"))
            return [Example((Turn(True, str(r["text"])),), str(r["category"])) for r in rows]
        if kind == "slot":
            return [span_example(row) for row in json.loads(path.read_text("utf-8"))]
        if kind == "top":
            return [parse_line(line) for line in read_lines(path) if line.strip()]
        return frame_states(multiwoz(path, delexicalize), SLOTS)


def parse_line(line: str) -> Example:
    """``word:tag word:tag ... <=> intent``.

    The tag is what follows the last colon, as in ``10:30:B-time``.

    Raises:
        UserError: a line of another form, or an empty word or tag.
    """
    body, _, intent = line.partition(" <=> ")
    pairs = [item.rpartition(":")[::2] for item in body.split()]
    if not intent or not all(word and tag for word, tag in pairs):
        raise UserError(f"a line of TOP is 'word:tag ... <=> intent', got {line[:80]!r}")
    return tagged([word for word, _ in pairs], [tag for _, tag in pairs], intent.strip())
