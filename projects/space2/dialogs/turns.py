"""Dialogues and their readers: unified JSON corpora, bundled sets, your own lines."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.damage import reading
from common.data.lookup import bundled, require
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl, text_of
from projects.space2.dialogs.converters import check_frame, from_acts, from_intent, from_spans
from projects.space2.dialogs.trees import Frame

Part = Literal["train", "dev", "test"]
SEEN_INTENTS = 100  # of CLINC150's 150, by hash of the name: those that are trained on
_SYNTHETIC_STREAM = 2**31 + 71


@dataclass(frozen=True)
class Turn:
    """One utterance.

    Attributes:
        user: who speaks; False is the system.
        text: as written.
        frame: semantic tree; {} where nothing is annotated.
        intent: class of an intent set; "" elsewhere.
    """

    user: bool
    text: str
    frame: Frame = field(default_factory=dict)
    intent: str = ""


@dataclass(frozen=True)
class Dialog:
    """Turns in order; `name` is what splits are made by."""

    name: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Corpus:
    """Dialogues with one scheme of annotation; trees are never compared between two corpora.

    Raises:
        UserError: no user turn.
    """

    name: str
    dialogs: tuple[Dialog, ...]

    def __post_init__(self) -> None:
        if not any(turn.user for dialog in self.dialogs for turn in dialog.turns):
            raise UserError(f"corpus {self.name} has no turn of a user")


def read_corpus(folder: Path, part: str) -> Corpus:
    """A corpus in the released form: ``<folder>/<part>.json``, part train, valid or test.

        {dialog id: {"turns": [{"role": "user" | "system", "text": str, "label": tree}]}}

    Source: He et al. 2022, released data (AnPreDial, UnPreDial), arXiv 2209.06638.

    Raises:
        UserError: no such file, or another form.
    """
    path = require(
        folder / f"{part}.json",
        what=f"corpus {folder.name}",
        layout="train.json, valid.json, test.json",
        source="AlibabaResearch/DAMO-ConvAI, space-2 (AnPreDial, UnPreDial)",
        size="3 GB in all",
    )
    return Corpus(folder.name, read_dialogs(path))


def read_dialogs(path: Path) -> tuple[Dialog, ...]:
    """Dialogues of a file in the released form, see `read_corpus`.

    Raises:
        UserError: a file of another form.
    """
    with reading(path, "corpus of dialogues"):
        content: dict[str, Any] = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(content, dict):
            raise UserError(f"{path} must be {{dialogue: {{turns: [...]}}}}")
        return tuple(
            Dialog(name, tuple(_turn(t, f"{path}, {name}") for t in dialog["turns"]))
            for name, dialog in content.items()
        )


def _turn(row: dict[str, Any], where: str) -> Turn:
    return Turn(
        row["role"] == "user", text_of(row["text"]), check_frame(row.get("label") or {}, where)
    )


def requests(name: str, turns: Iterable[Turn]) -> Corpus:
    """A corpus of single requests."""
    return Corpus(name, tuple(Dialog(f"{name}-{i}", (turn,)) for i, turn in enumerate(turns)))


def sgd(part: Part, root: str | None = None) -> Corpus:
    """Schema-Guided Dialogue: acts of the users with the values of the dialogue state.

    ``train`` has nine services; ``dev`` and ``test`` are dialogues of twelve others (three and
    seven in ten, by hash). The domain is the service without its number.
    """
    name = "train" if part == "train" else "dev"
    rows = read_jsonl(bundled("dialog-sgd", root) / f"{name}.jsonl.gz", ("id", "turns"))
    dialogs = [Dialog(str(row["id"]), tuple(_sgd_turn(t) for t in row["turns"])) for row in rows]
    if part != "train":
        dialogs = [d for d in dialogs if (stable_fraction(d.name) < 0.3) == (part == "dev")]
    return Corpus("sgd", tuple(dialogs))


def _sgd_turn(row: dict[str, Any]) -> Turn:
    acts = [tuple(act.split("|")) for act in row["acts"]]
    state = {
        _domain(s): {k: str(v) for k, v in service_state["slots"].items()}
        for s, service_state in row.get("state", {}).items()
    }
    frame = from_acts([(_domain(d), act, slot) for d, act, slot in acts], state)
    return Turn(row["speaker"] == "USER", text_of(row["text"]), frame)


def _domain(service: str) -> str:
    return re.sub(r"_\d+$", "", service)


def clinc(part: Part, seen: bool, root: str | None = None) -> Corpus:
    """CLINC150 as {domain: {intent: {}}}: 100 intents for training, or the 50 others."""
    file = {"train": "train", "dev": "val", "test": "test"}[part]
    rows = read_jsonl(
        bundled("intents", root) / f"clinc150-{file}.jsonl.gz", ("text", "intent", "domain")
    )
    names = sorted({str(row["intent"]) for row in rows}, key=stable_fraction)
    chosen = set(names[:SEEN_INTENTS] if seen else names[SEEN_INTENTS:])
    return requests(
        "clinc",
        (
            Turn(
                True,
                str(r["text"]),
                from_intent(str(r["intent"]), str(r["domain"])),
                str(r["intent"]),
            )
            for r in rows
            if r["intent"] in chosen
        ),
    )


def slurp(root: str | None = None) -> Corpus:
    """SLURP's requests without their annotation."""
    folder = bundled("intents", root)
    rows = [
        row
        for part in ("devel", "test")
        for row in read_jsonl(folder / f"slurp-{part}.jsonl.gz", ("text",))
    ]
    return requests("slurp", (Turn(True, text_of(row["text"])) for row in rows))


def restaurant8k(part: Part, root: str | None = None) -> Corpus:
    """Restaurants-8k: values of five slots by character spans; dev is a tenth of train, by hash."""
    file = "test" if part == "test" else "train"
    rows = read_jsonl(bundled("intents", root) / f"restaurant8k-{file}.jsonl.gz", ("userInput",))
    turns = [
        Turn(
            True,
            r["userInput"]["text"],
            from_spans(r["userInput"]["text"], span_labels(r), "restaurant"),
        )
        for r in rows
    ]
    if part != "test":
        turns = [t for t in turns if (stable_fraction(t.text) < 0.1) == (part == "dev")]
    return requests("restaurant8k", turns)


def span_labels(row: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(slot, start, end) of a row of Restaurants-8k or DSTC8-SGD.

    An index that is left out is 0.
    """
    spans = [(label["slot"], label["valueSpan"]) for label in row.get("labels", ())]
    return [
        (slot, int(s.get("startIndex", 0)), int(s["endIndex"]))
        for slot, s in spans
        if s.get("endIndex", 0) > s.get("startIndex", 0)
    ]


def synthetic(part: str, seed: int = 0, count: int = 24) -> Corpus:
    """Synthetic requests about hotels, taxis and restaurants with their trees, and answers."""
    places, prices, domains = (
        ("north", "south", "centre"),
        ("cheap", "fine"),
        ("hotel", "taxi", "restaurant"),
    )
    dialogs = []
    for i in range(count):
        rng = sample_rng(seed, {"train": 0, "dev": 1, "test": 2}.get(part, 3), i, _SYNTHETIC_STREAM)
        domain, area, price = (str(rng.choice(words)) for words in (domains, places, prices))
        first: Frame = {domain: {"inform": {"area": [{"value": area, "span": None}]}}}
        second: Frame = {
            domain: {
                "inform": {"price": [{"value": price, "span": None}]},
                "request": {"phone": []},
            }
        }
        turns = (
            Turn(True, f"I want a {domain} in the {area}", first, domain),
            Turn(False, f"How much may the {domain} cost?"),
            Turn(True, f"It should be {price}, and what is the phone number?", second, domain),
        )
        dialogs.append(Dialog(f"{part}-{i}", turns))
    return Corpus("synthetic", tuple(dialogs))


def user_turns(dialogs: Sequence[Dialog]) -> list[tuple[int, int]]:
    """(dialogue, turn) of every turn of a user: each is one example with what came before it."""
    return [
        (d, t)
        for d, dialog in enumerate(dialogs)
        for t, turn in enumerate(dialog.turns)
        if turn.user
    ]
