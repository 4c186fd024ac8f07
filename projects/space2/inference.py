"""An exported model on your own texts: vectors, similar requests, answers of its head."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.features.linear_probe import fit_logistic_regression
from projects.space2.dialogs.encoding import Row
from projects.space2.dialogs.tasks import Example, frame_states
from projects.space2.dialogs.turns import Corpus, Dialog, Turn
from projects.space2.folder import load_parts
from projects.space2.heads import TaskHead
from projects.space2.network import Space2Network
from projects.space2.scoring import answers, track

Text = str | Sequence[Turn]
"""A request, or a dialogue up to its current turn."""


class Slot(NamedTuple):
    """A slot and the words of the request that fill it."""

    name: str
    value: str


class Parse(NamedTuple):
    """What a request wants, and its slots in the order of the words."""

    intent: str
    slots: list[Slot]


class DialogModel:
    """Encoder, sub-spaces, and the head of a task if it was fine-tuned.

    Args:
        network: encoder and sub-spaces.
        head: of a task; None: there is none.
    """

    def __init__(self, network: Space2Network, head: TaskHead | None = None) -> None:
        self.network, self.head = network, head

    @classmethod
    def open(cls, folder: str | Path) -> "DialogModel":
        """The model of a folder that `make export` wrote.

        Raises:
            UserError: no such folder, or a damaged one.
        """
        network, head, _ = load_parts(folder)
        return cls(network, head)

    def rows(self, texts: Sequence[Text]) -> list[Row]:
        """Token ids of requests or dialogues.

        Raises:
            ValueError: no texts, or a dialogue without turns.
        """
        dialogs = [[Turn(True, t)] if isinstance(t, str) else list(t) for t in texts]
        if not dialogs or not all(dialogs):
            raise ValueError("there is nothing to read: give requests, or dialogues with turns")
        tokenizer = self.network.texts
        return [tokenizer.row(tokenizer.utterances(turns), turns[-1].user) for turns in dialogs]

    def encode(self, texts: Sequence[Text], batch_size: int = 128) -> Tensor:
        """Sentence vectors (N, D), not normalised, float32."""
        return self.network.encode(self.rows(texts), batch_size)

    def views(self, texts: Sequence[Text], batch_size: int = 128) -> dict[str, Tensor]:
        """Unit vectors (N, d) in the sub-space of each view that was trained.

        Raises:
            UserError: none was.
        """
        views = self.network.views
        if not views:
            raise UserError("no sub-space of this model was trained: use encode()")
        with torch.no_grad():
            vectors = self.network.view_vectors(self.encode(texts, batch_size), views)
        return dict(zip(views, F.normalize(vectors, dim=-1).unbind(1), strict=True))

    def similarity(
        self, texts: Sequence[Text], others: Sequence[Text], view: str | None = None
    ) -> Tensor:
        """Cosines (N, M) in one sub-space, or their mean over those that were trained.

        Raises:
            UserError: the view was not trained, or none was.
        """
        views = self.network.views
        if view is not None and views and view not in views:
            raise UserError(
                f"view must be one of {', '.join(views)}, which were trained; got {view!r}"
            )
        a, b = self.views(texts), self.views(others)
        chosen = views if view is None else (view,)
        return torch.stack([a[v] @ b[v].T for v in chosen]).mean(0)

    def classify(
        self, texts: Sequence[Text], examples: Sequence[tuple[str, str]] = ()
    ) -> list[str]:
        """The intent of each text: by the head, or by logistic regression on some examples.

        Args:
            texts: N requests or dialogues.
            examples: (text, intent); needed where the model has no head for intents, and used
                instead of it where they are given.

        Raises:
            UserError: neither head nor examples of two intents.
        """
        vectors = self.encode(texts)
        if not examples:
            if self.head is None or self.head.intents is None:
                raise UserError("this model has no head for intents: give examples (text, intent)")
            with torch.no_grad():
                return [self.head.names[i] for i in self.head.intents(vectors).argmax(1).tolist()]
        names = sorted({label for _, label in examples})
        if len(names) < 2:
            raise UserError("examples of at least two intents are needed")
        train = self.encode([text for text, _ in examples])
        mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
        labels = torch.tensor([names.index(label) for _, label in examples])
        weight, bias = fit_logistic_regression((train - mean) / std, labels, 1e-2, len(names))
        scores = ((vectors - mean) / std).to(weight) @ weight.T + bias
        return [names[i] for i in scores.argmax(1).tolist()]

    def slots(self, texts: Sequence[str], batch_size: int = 128) -> list[list[Slot]]:
        """Slots of each request, which is split at spaces.

        Raises:
            UserError: no head of task.kind=slot or top, or a request without a word.
        """
        return [parse.slots for parse in self.parses(texts, batch_size)]

    def parses(self, texts: Sequence[str], batch_size: int = 128) -> list[Parse]:
        """Intent ("" of a head for slots alone) and slots of each request.

        Raises:
            UserError: see `slots`.
        """
        if self.head is None or self.head.tags is None:
            raise UserError(
                "this model has no head for slots: fine-tune it with task.kind=slot or top"
            )
        words = [text.split() for text in texts]
        if not all(words):
            raise UserError("a request without a word has no slots: leave it out")
        examples = [Example((Turn(True, " ".join(w)),), words=tuple(w)) for w in words]
        told = answers(self.network, self.head, examples, batch_size)
        return [
            Parse(intent, tagged_slots(w, tags))
            for w, (intent, tags) in zip(words, told, strict=True)
        ]

    def states(
        self, dialogs: Sequence[Sequence[Turn]], batch_size: int = 128
    ) -> list[list[dict[str, str]]]:
        """State after each turn of the user, carried on through the dialogue.

        Args:
            dialogs: turns in order. The frames of the system's turns, where there are any, tell
                which values it offered, and a value that only the system said is read from them;
                those of the user's turns are not looked at.
            batch_size: turns a pass.

        Raises:
            UserError: no head of task.kind=dst, or no turn of a user.
        """
        if self.head is None or self.head.state is None:
            raise UserError("this model has no head for states: fine-tune it with task.kind=dst")
        unread = [
            Dialog(str(i), tuple(replace(t, frame={}) if t.user else t for t in turns))
            for i, turns in enumerate(dialogs)
        ]
        examples = frame_states(Corpus("own", tuple(unread)), self.head.slots)
        states: list[list[dict[str, str]]] = [[] for _ in dialogs]
        for example, state in zip(
            examples, track(self.network, self.head, examples, batch_size), strict=True
        ):
            states[int(example.dialog)].append(state)
        return states


def tagged_slots(words: Sequence[str], tags: Sequence[str]) -> list[Slot]:
    """Runs of words with one slot; B- begins a run.

    >>> tagged_slots("a table at eight pm".split(), ["O", "O", "O", "B-time", "I-time"])
    [Slot(name='time', value='eight pm')]
    """
    slots: list[Slot] = []
    last = ""
    for word, tag in zip(words, tags, strict=True):
        begin, _, name = tag.partition("-")
        if name and begin == "I" and name == last:
            slots[-1] = Slot(name, f"{slots[-1].value} {word}")
        elif name:
            slots.append(Slot(name, word))
        last = name
    return slots
