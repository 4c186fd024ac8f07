"""Contrastive search: batches, padding, a cache, and one pass over all candidates of a step.

# B rows, S tokens so far, K candidates, V vocabulary, D hidden size
"""

import inspect
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from common.encoders.text.tuned.prefix import cache_argument

Passes = Literal["auto", "shared", "expanded", "sequential"]
# architectures whose attention is told by a (B, 1, Q, S) mask alone and whose positions are given
SHARING = ("gpt2", "gpt_neox", "llama", "opt", "qwen2")


class Ranked(NamedTuple):
    """The candidates of a step."""

    best: Tensor  # (B,) int64, rank of the chosen one
    score: Tensor  # (B, K)
    nearest: Tensor  # (B, K), largest cosine with a token that was there before


def rerank(
    candidates: Tensor,
    context: Tensor,
    probability: Tensor,
    penalty: float,
    mask: Tensor | None = None,
) -> Ranked:
    """The candidate that is likely and unlike everything before it.

        s_v = (1 - alpha) p(v | x_<t) - alpha max_{j < t} cos(h_v, h_{x_j})

    Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equation 5, arXiv
    2202.06417; Su & Collier 2023, arXiv 2210.14140.

    Args:
        candidates: (B, K, D) last hidden state of each candidate, appended to its row; by falling
            probability.
        context: (B, S, D) last hidden states of the tokens so far.
        probability: (B, K) of the softmax over the whole vocabulary.
        penalty: alpha, in [0, 1].
        mask: (B, S), nonzero where a state counts; None: all. Without any that counts there is no
            penalty.

    Returns:
        The best candidate (of equal scores the likeliest), scores and largest cosines.

    >>> h, p = torch.eye(2)[None], torch.tensor([[0.6, 0.4]])
    >>> rerank(h, h[:, :1], p, 0.5).score, int(rerank(h, h[:, :1], p, 0.5).best)
    (tensor([[-0.2000,  0.2000]]), 1)
    """
    return _ranked(_unit(candidates), _unit(context), probability, penalty, mask)


@torch.no_grad()
def contrastive_search(
    model: Any,
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    attention_mask: Tensor | None = None,
    candidates: int = 5,
    penalty: float = 0.6,
    ends: Tensor | None = None,
    min_new_tokens: int = 0,
    exclude_prefix: bool = False,
    passes: Passes = "auto",
) -> Tensor:
    """Greedy search that penalises candidates whose state resembles one that was there before.

    Each new token costs one pass over its K candidates; the chosen one's state, logits and cache
    entries are those of that pass. `rerank` has the equation.

    Source: Su & Collier 2023, "Contrastive Search Is What You Need For Neural Text Generation",
    section 3, arXiv 2210.14140.

    Args:
        model: causal LM with a key-value cache and hidden states.
        input_ids: (B, S) prompts, padded on the left.
        max_new_tokens: tokens to add.
        attention_mask: (B, S), 0 at padding; None: there is none.
        candidates: K most likely tokens, of which one is chosen; 1 is greedy search.
        penalty: alpha, in [0, 1]; 0 is greedy search.
        ends: (V,) bool, tokens that end a text; the search stops when all rows have ended. One in a
            prompt ends nothing.
        min_new_tokens: before so many a token of `ends` is not a candidate.
        exclude_prefix: only new tokens are looked back at.
        passes: how candidates are encoded. "shared": as K tokens at one place that don't see each
            other, over one cache; "expanded": as K rows, over K copies of the cache; "sequential":
            one after the other, for the least memory; "auto": shared where the architecture allows.

    Returns:
        (B, T) int64 new tokens, T <= max_new_tokens; what follows a row's end has no meaning.

    Raises:
        ValueError: more candidates than tokens in the vocabulary, or unknown `passes`.
    """
    if passes not in get_args(Passes):
        raise ValueError(f"passes must be one of {get_args(Passes)}, got {passes!r}")
    batch, width = input_ids.shape
    seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(torch.int64)
    encoder = _encoder(model, candidates, passes)
    states, logits = encoder.begin(input_ids, seen)
    if not 1 <= candidates <= logits.shape[-1]:
        raise ValueError(f"{candidates} candidates of a vocabulary of {logits.shape[-1]}")
    # unit states of all tokens so far, written in place
    unit = _unit(states)
    context = unit.new_zeros(batch, width + max_new_tokens, unit.shape[-1])
    context[:, :width] = unit
    counts = torch.ones(batch, width + max_new_tokens, dtype=torch.bool, device=input_ids.device)
    counts[:, :width] = False if exclude_prefix else seen.bool()
    rows = torch.arange(batch, device=input_ids.device)
    done = torch.zeros(batch, dtype=torch.bool, device=input_ids.device)
    chosen: list[Tensor] = []
    for place in range(width, width + max_new_tokens):
        # by logits: probabilities of different logits may round to the same number
        free = logits
        if ends is not None and place - width < min_new_tokens:
            free = logits.masked_fill(ends, -torch.inf)
        token = free.topk(candidates).indices  # (B, K)
        probability = torch.softmax(_wide(logits), -1).gather(1, token)
        states, logits_of = encoder.candidates(token)  # (B, K, D), (B, K, V)
        unit = _unit(states)
        best = _ranked(unit, context[:, :place], probability, penalty, counts[:, :place]).best
        encoder.keep(best)
        context[:, place], logits = unit[rows, best], logits_of[rows, best]
        chosen.append(token[rows, best])
        if ends is not None:
            done |= ends[chosen[-1]]
            if bool(done.all()):
                break
    return torch.stack(chosen, 1) if chosen else input_ids[:, :0]


class _Encoder(Protocol):
    """A model with its cache, as the search asks it."""

    def begin(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (B, S) -> states (B, S, D) and logits (B, V) of what follows."""

    def candidates(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Candidates (B, K) -> states (B, K, D) and logits (B, K, V), each as if it came next."""

    def keep(self, best: Tensor) -> None:
        """Make candidate (B,) of each row its newest token."""


class _Expanded:
    """Candidates as rows of their own, each over a copy of its row's cache; any architecture."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache = model, DynamicCache()
        self.positions = _takes(model, "position_ids")
        self.cache_name = cache_argument(model) or "past_key_values"
        self.mask = self.place = self.token = torch.empty(0)
        self.count = 1  # candidates of the step

    def begin(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.mask, self.place = mask, mask.sum(1, keepdim=True)
        states, logits = self._pass(ids, mask, (mask.cumsum(1) - 1).clamp(min=0))
        return states, logits[:, -1]

    def candidates(self, token: Tensor) -> tuple[Tensor, Tensor]:
        count = self.count = token.shape[1]
        self.cache.batch_repeat_interleave(count)
        mask = F.pad(self.mask, (0, 1), value=1).repeat_interleave(count, 0)
        place = self.place.repeat_interleave(count, 0)
        states, logits = self._pass(token.reshape(-1, 1), mask, place)
        return states.view(*token.shape, -1), logits.view(*token.shape, -1)

    def keep(self, best: Tensor) -> None:
        rows = torch.arange(len(best), device=best.device) * self.count + best
        self.cache.batch_select_indices(rows)
        self._grow()

    def _grow(self) -> None:
        self.mask, self.place = F.pad(self.mask, (0, 1), value=1), self.place + 1

    def _pass(self, ids: Tensor, mask: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=True,
            output_hidden_states=True,
            **{self.cache_name: self.cache},
            **({"position_ids": place} if self.positions else {}),
        )
        return out.hidden_states[-1], out.logits


class _Sequential(_Expanded):
    """Candidates one after the other; the chosen one once more, for its cache entries."""

    def candidates(self, token: Tensor) -> tuple[Tensor, Tensor]:
        self.token = token
        parts = []
        for place in range(token.shape[1]):
            parts.append(self._next(token[:, place : place + 1]))
            self.cache.crop(-1)
        states, logits = zip(*parts, strict=True)
        return torch.cat(states, 1), torch.cat(logits, 1)

    def _next(self, token: Tensor) -> tuple[Tensor, Tensor]:
        return self._pass(token, F.pad(self.mask, (0, 1), value=1), self.place)

    def keep(self, best: Tensor) -> None:
        self._next(self.token.gather(1, best[:, None]))
        self._grow()


class _Shared(_Expanded):
    """Candidates as K tokens at one position that see the row and themselves, over one cache."""

    def candidates(self, token: Tensor) -> tuple[Tensor, Tensor]:
        batch, count = token.shape
        dtype = next(self.model.parameters()).dtype
        diagonal = torch.eye(count, dtype=torch.bool, device=token.device).expand(batch, -1, -1)
        before = self.mask.bool()[:, None].expand(-1, count, -1)
        sees = torch.cat([before, diagonal], -1)[:, None]  # (B, 1, K, S + K)
        bias = torch.zeros(sees.shape, dtype=dtype, device=token.device)
        bias.masked_fill_(~sees, torch.finfo(dtype).min)
        return self._pass(token, bias, self.place.expand(-1, count))

    def keep(self, best: Tensor) -> None:
        length, rows = self.mask.shape[1], torch.arange(len(best), device=best.device)
        for layer in self.cache.layers:
            for name in ("keys", "values"):  # (B, heads, S + K, D)
                content = getattr(layer, name)
                content[:, :, length] = content[rows, :, length + best]
                setattr(layer, name, content[:, :, : length + 1])
        self._grow()


def _encoder(model: Any, candidates: int, passes: Passes) -> _Encoder:
    if passes == "auto":
        passes = "shared" if candidates > 1 and _can_share(model) else "expanded"
    return {"shared": _Shared, "expanded": _Expanded, "sequential": _Sequential}[passes](model)


def _can_share(model: Any) -> bool:
    config = getattr(model, "config", None)
    return (
        getattr(config, "model_type", None) in SHARING
        and getattr(config, "_attn_implementation", None) in ("eager", "sdpa")
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


def _takes(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _unit(states: Tensor) -> Tensor:
    return F.normalize(_wide(states), dim=-1)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _ranked(
    candidates: Tensor, context: Tensor, probability: Tensor, penalty: float, mask: Tensor | None
) -> Ranked:
    nearest = _nearest(candidates, context, mask)
    score = (1 - penalty) * probability - penalty * nearest  # Eq. 5 of arXiv 2202.06417
    return Ranked(score.argmax(-1), score, nearest)


def _nearest(candidates: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    cosine = candidates @ context.transpose(1, 2)  # (B, K, S)
    if mask is None:
        return cosine.amax(-1)
    nearest = cosine.masked_fill(~mask.bool()[:, None], -torch.inf).amax(-1)
    return torch.where(nearest.isneginf(), 0.0, nearest)  # nothing to look back at: no penalty
