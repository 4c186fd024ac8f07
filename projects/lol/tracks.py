"""Several readings of the same text side by side: other models, other prompts, one continuation.

Every track reads its own prompt, and all of them the same tokens after it. Rows are padded on the
left, so that the tokens of all tracks and rows end at the same column.

# B rows, S tokens of a prompt, T tokens after it, D hidden size, V vocabulary
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from common.config import UserError
from common.encoders.text.tuned.prefix import cache_argument

Ids = list[int]


@dataclass(frozen=True)
class Track:
    """A model and the prompts that it reads.

    Attributes:
        model: causal LM of transformers, in evaluation mode.
        prompts: B rows of token ids, none empty.
        layers: indices of the hidden states that are wanted alongside the logits.
        around: entered around every pass, such as a switch of adapters.
    """

    model: Any
    prompts: Sequence[Ids]
    layers: tuple[int, ...] = ()
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Reading:
    """What a track says of the tokens that come next."""

    model: Any  # of the track
    logits: Tensor  # (B, T, V)
    states: dict[int, Tensor]  # layer -> (B, T, D)


@torch.no_grad()
def read(tracks: Sequence[Track], continuations: Sequence[Ids], pad: int) -> list[Reading]:
    """One pass of each track over prompt and continuation (teacher forcing).

    Args:
        tracks: with B prompts each.
        continuations: B rows of token ids, none empty; equal for all tracks.
        pad: any id; padding is masked.

    Returns:
        For each track what it says at the T places of the longest continuation: those of a row of t
        tokens are the last t, what stands before them has no meaning.

    Raises:
        UserError: prompt and continuation exceed a model's context.
    """
    places = max(map(len, continuations))
    logits = []
    for track in tracks:
        rows = [p + c for p, c in zip(track.prompts, continuations, strict=True)]
        _check_room(track.model, max(map(len, rows)))
        ids, mask = left_padded(rows, pad, track.model.device)
        logits.append(_Stream(track, cached=False).step(ids, mask, places + 1, drop_last=True))
    return logits


@torch.no_grad()
def write(
    tracks: Sequence[Track],
    choose: Callable[[list[Reading], Tensor], Tensor],
    max_new_tokens: int,
    *,
    pad: int,
    ends: Tensor | None = None,
) -> Tensor:
    """Continue all rows token by token; each track keeps its own cache and positions.

    Args:
        tracks: with B prompts each.
        choose: readings of the tracks at one place (T = 1) and the tokens so far (B, n) -> (B,)
            next tokens.
        max_new_tokens: tokens to add.
        pad: any id; padding is masked.
        ends: (V,) bool, tokens that end a row; writing stops when all rows have ended.

    Returns:
        (B, T) int64, T <= max_new_tokens; what follows a row's end has no meaning.

    Raises:
        UserError: prompt and new tokens exceed a model's context.
    """
    streams, inputs = [_Stream(track) for track in tracks], []
    for track in tracks:
        _check_room(track.model, max(map(len, track.prompts)) + max_new_tokens)
        inputs.append(left_padded(track.prompts, pad, track.model.device))
    new = torch.zeros(len(tracks[0].prompts), 0, dtype=torch.int64, device=inputs[0][0].device)
    done = torch.zeros(len(new), dtype=torch.bool, device=new.device)
    for _ in range(max_new_tokens):
        readings = [s.step(ids, mask, 1) for s, (ids, mask) in zip(streams, inputs, strict=True)]
        token = choose(readings, new)
        new = torch.cat([new, token[:, None]], 1)
        if ends is not None:
            done |= ends[token]
            if bool(done.all()):
                break
        inputs = [(token[:, None], F.pad(mask, (0, 1), value=1)) for _, mask in inputs]
    return new


def left_padded(rows: Sequence[Ids], pad: int, device: Any = None) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, S) int64 of rows that end at the same column."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


class _Stream:
    """A track with its cache."""

    def __init__(self, track: Track, *, cached: bool = True) -> None:
        self.track = track
        self.cache = DynamicCache() if cached else None
        self.takes = inspect.signature(track.model.forward).parameters

    def step(self, ids: Tensor, mask: Tensor, places: int, *, drop_last: bool = False) -> Reading:
        """Read the newest tokens (B, n) under the mask (B, all so far); what the last `places` say.

        `drop_last` leaves out the very last place, behind which nothing is read.
        """
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options: dict[str, Any] = {"use_cache": self.cache is not None}
        if self.cache is not None:
            options[cache_argument(self.track.model) or "past_key_values"] = self.cache
        if "position_ids" in self.takes:
            options["position_ids"] = position
        if "logits_to_keep" in self.takes:  # the head is most of the memory of a long prompt
            options["logits_to_keep"] = places
        with self.track.around():
            out = self.track.model(
                input_ids=ids,
                attention_mask=mask,
                output_hidden_states=bool(self.track.layers),
                **options,
            )
        kept = slice(-places, -1 if drop_last else None)
        states = {layer: out.hidden_states[layer][:, kept] for layer in self.track.layers}
        return Reading(self.track.model, out.logits[:, kept], states)


def room_of(model: Any) -> int:
    """Tokens that a model reads at most."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 10**9)


def _check_room(model: Any, tokens: int) -> None:
    room = room_of(model)
    if tokens > room:
        raise UserError(
            f"{tokens} tokens of a prompt and what follows it exceed this model's context of"
            f" {room}: shorten the prompt (fewer demonstrations) or take fewer new tokens"
        )
