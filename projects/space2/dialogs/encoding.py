"""Dialogues as token ids with positions, roles and turns, and tokens to mask.

# B examples, L tokens
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.text.masking import IGNORED
from projects.space2.dialogs.trees import Frame
from projects.space2.dialogs.turns import Dialog, Turn

USER_MARKS, SYSTEM_MARKS = ("<sos_u>", "<eos_u>"), ("<sos_r>", "<eos_r>")
USER, SYSTEM = 0, 1  # role ids


class DialogInputs(TypedDict):
    """B dialogues up to their current utterance, padded on the right with 0; all (B, L) int64."""

    input_ids: Tensor
    position_ids: Tensor  # begin at 0 in every utterance
    role_ids: Tensor  # 0 as the current speaker if that is a user, alternating backwards
    turn_ids: Tensor  # 1 is the current utterance, 2 the one before it, ...
    attention_mask: Tensor


class Row(NamedTuple):
    """One dialogue up to its current utterance, each (L,) int64.

    `values`: token of an annotated value.
    """

    ids: np.ndarray
    positions: np.ndarray
    roles: np.ndarray
    turns: np.ndarray
    values: np.ndarray
    marks: np.ndarray  # True at utterance boundaries


class Utterance(NamedTuple):
    """Ids (l,) with the marks around them, and which of them belong to an annotated value."""

    ids: np.ndarray
    values: np.ndarray


class DialogTokenizer:
    """A tokenizer of transformers with the marks of utterances, and the lengths of an input.

    Source: He et al. 2022, released reader, arXiv 2209.06638.

    Args:
        tokenizer: gets four more tokens if it does not have them.
        max_length: tokens of an input; the earliest are cut.
        max_turns: utterances of an input at most.

    Raises:
        UserError: no [CLS], no [MASK], or no padding token.
    """

    def __init__(self, tokenizer: Any, max_length: int = 256, max_turns: int = 16) -> None:
        if None in (tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id):
            raise UserError("a dialogue encoder needs a tokenizer with [CLS], [MASK] and [PAD]")
        tokenizer.add_special_tokens({"additional_special_tokens": [*USER_MARKS, *SYSTEM_MARKS]})
        self.tokenizer, self.max_length, self.max_turns = tokenizer, max_length, max_turns
        self.marks = [tokenizer.convert_tokens_to_ids(list(m)) for m in (USER_MARKS, SYSTEM_MARKS)]
        self.mask_id, self.pad_id = int(tokenizer.mask_token_id), int(tokenizer.pad_token_id)
        self.vocab_size = len(tokenizer)

    def utterances(self, turns: Sequence[Turn]) -> list[Utterance]:
        """Ids of texts with their marks; what is too long keeps its last tokens.

        Tokens of a value are all occurrences of its token sequence in the text.
        """
        if not turns:
            return []
        texts = self.tokenizer([t.text for t in turns], add_special_tokens=False)["input_ids"]
        values = [[v for v in value_texts(t) if v] for t in turns]
        flat = [v for turn_values in values for v in turn_values]
        pieces = iter(self.tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
        encoded = []
        for turn, ids, turn_values in zip(turns, texts, values, strict=True):
            marked = np.zeros(len(ids), dtype=bool)
            for _ in turn_values:
                mark_occurrences(ids, next(pieces), marked)
            limit = self.max_length - 2
            begin, end = self.marks[USER if turn.user else SYSTEM]
            encoded.append(
                Utterance(
                    np.array([begin, *ids[-limit:], end], dtype=np.int64),
                    np.concatenate([[False], marked[-limit:], [False]]),
                )
            )
        return encoded

    def row(self, dialog: Sequence[Utterance], user: bool) -> Row:
        """Input whose current utterance is the last one; `user` is who speaks it."""
        current = USER if user else SYSTEM
        parts = []
        for back, (ids, values) in enumerate(reversed(dialog[-self.max_turns :])):
            marks = np.zeros(len(ids), dtype=bool)
            marks[[0, -1]] = True
            role = current if back % 2 == 0 else 1 - current  # alternate backwards
            fill = np.ones(len(ids), dtype=np.int64)
            parts.append(
                Row(ids, np.arange(len(ids)), role * fill, (back + 1) * fill, values, marks)
            )
        whole = Row(
            *(np.concatenate(field[::-1])[-self.max_length :] for field in zip(*parts, strict=True))
        )
        return whole

    def pad(self, rows: Sequence[Row]) -> DialogInputs:
        """Rows as one batch; all are padded with 0."""
        ids, mask = padded_with([r.ids for r in rows], self.pad_id)
        return {
            "input_ids": ids,
            "position_ids": padded_with([r.positions for r in rows])[0],
            "role_ids": padded_with([r.roles for r in rows])[0],
            "turn_ids": padded_with([r.turns for r in rows])[0],
            "attention_mask": mask,
        }

    def encode(self, dialogs: Sequence[Dialog], examples: Sequence[tuple[int, int]]) -> list[Row]:
        """Rows of (dialogue, turn) pairs."""
        utterances = [self.utterances(d.turns) for d in dialogs]
        return [self.row(utterances[d][: t + 1], dialogs[d].turns[t].user) for d, t in examples]

    def texts(self, texts: Sequence[str]) -> list[Row]:
        """Rows of single requests of a user."""
        return [self.row([u], True) for u in self.utterances([Turn(True, t) for t in texts])]

    def masked(
        self, row: Row, rng: np.random.Generator, probability: float = 0.15
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids with hidden tokens and their labels (-100 elsewhere), utterance by utterance.

        Where an utterance has annotated values exactly their tokens become [MASK]; else 15 % are
        chosen, of which 80 % become [MASK], 10 % a random token of 1 ... V - 1, 10 % stay.
        Boundaries
        are never chosen.

        Source: He et al. 2022, released reader ("span" masking), arXiv 2209.06638.
        """
        has_value = np.isin(row.turns, row.turns[row.values])  # by utterance
        draw, kind = rng.random(len(row.ids)), rng.random(len(row.ids))
        random = rng.integers(1, self.vocab_size, size=len(row.ids))
        chosen = np.where(has_value, row.values, (draw < probability) & ~row.marks)
        hidden = chosen & (has_value | (kind < 0.8))
        changed = chosen & ~has_value & (kind >= 0.8) & (kind < 0.9)
        ids = np.where(hidden, self.mask_id, np.where(changed, random, row.ids))
        return ids, np.where(chosen, row.ids, IGNORED)


def value_texts(turn: Turn) -> list[str]:
    """The values of a turn that are in its text: by their span, or where the text contains them."""
    texts: list[str] = []
    frame: Frame = turn.frame
    for intents in frame.values():
        for slots in intents.values():
            for values in slots.values():
                for value in values:
                    span = value.get("span")
                    text = turn.text[span[0] : span[1]] if span else str(value["value"])
                    if text.strip() and text.lower().strip() in turn.text.lower():
                        texts.append(text)
    return texts


def mark_occurrences(ids: Sequence[int], piece: Sequence[int], marked: np.ndarray) -> None:
    """Set `marked` where the sequence `piece` occurs in `ids`.

    >>> marked = np.zeros(5, dtype=bool)
    >>> mark_occurrences([3, 4, 1, 3, 4], [3, 4], marked)
    >>> marked.tolist()
    [True, True, False, True, True]
    """
    size = len(piece)
    for start in range(len(ids) - size + 1 if size else 0):
        if list(ids[start : start + size]) == list(piece):
            marked[start : start + size] = True


def padded_with(rows: Sequence[np.ndarray], fill: int = 0) -> tuple[Tensor, Tensor]:
    """(B, L) int64 padded on the right, and its mask."""
    sizes = np.array([len(row) for row in rows])
    matrix = np.full((len(rows), int(sizes.max())), fill, dtype=np.int64)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    mask = np.arange(matrix.shape[1]) < sizes[:, None]
    return torch.from_numpy(matrix), torch.from_numpy(mask.astype(np.int64))
