"""A causal language model with its tokenizer: continuations, likelihoods, features."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor

from common.config import UserError
from common.decoding.contrastive_search import Passes, contrastive_search
from common.decoding.options import Policy
from common.decoding.policies import Further, generation_config, processors
from common.decoding.stopping import end_ids, ending_tokens, held_back, stopping, until_end
from common.encoders.text.tower import load_tokenizer, load_transformer

Progress = Callable[[Iterable[int], str, int], Iterable[int]]


class Continuation(NamedTuple):
    """What a language model wrote after a prompt."""

    text: str  # with the leading space that joins it to the prompt, if any
    ended: bool  # by a token that ends texts
    num_tokens: int


class LanguageModel:
    """Any decoder of transformers, for decoding and scoring; never trained.

    Args:
        model: causal LM, put into evaluation mode and moved to `device`.
        tokenizer: its tokenizer.
        device: "auto" is a GPU if there is one.
        amateur: for contrastive decoding; None: the model itself (with less context).
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str = "auto", amateur: Any = None
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, device
        self.amateur = self.model if amateur is None else amateur.to(device).eval()
        self.eos = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self.pad = int(pad if pad is not None else self.eos if self.eos is not None else 0)
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 10**9)
        self.passes: Passes = "auto"  # of contrastive search
        self._stopping: dict[str | None, Any] = {None: None}  # by character, made once

    @classmethod
    def from_pretrained(
        cls,
        pretrained: str,
        device: str = "auto",
        amateur: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> "LanguageModel":
        """Load from a folder, ``bundled:<name>`` or hub id.

        Args:
            pretrained: the model.
            device: "auto" is a GPU if there is one.
            amateur: for contrastive decoding, a smaller model of the same vocabulary.
            dtype: of the weights.

        Raises:
            UserError: absent or unfitting weights, or an amateur with another vocabulary.
        """
        model = load_transformer(pretrained, auto_class=AutoModelForCausalLM, dtype=dtype)
        tokenizer = load_tokenizer(pretrained)
        small = None
        if amateur is not None:
            small = load_transformer(amateur, auto_class=AutoModelForCausalLM, dtype=dtype)
            if load_tokenizer(amateur).get_vocab() != tokenizer.get_vocab():
                raise UserError(
                    f"the amateur {amateur!r} has another vocabulary than {pretrained!r}"
                )
        return cls(model, tokenizer, device, small)

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text: the tokenizer's, and those of the model's generation config."""
        return end_ids(self.model, self.eos)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        return len(self.token_ids(text))

    @torch.no_grad()
    def continuations(
        self,
        prompts: Sequence[str],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int | Sequence[int],
        *,
        batch_size: int = 64,
        stop: str | None = None,
        progress: Progress = lambda items, description, total: items,
        further: Further | None = None,
    ) -> list[Continuation]:
        """Continue prompts; a prompt that does not fit is cut on its left.

        Args:
            prompts: N texts, not empty.
            policy: how tokens are chosen.
            rngs: one random stream per prompt.
            max_new_tokens: most tokens, one number or one per prompt.
            batch_size: prompts per pass.
            stop: a character that ends a continuation and is left out, such as a line break.
            progress: wraps the loop over the batches.
            further: processors of logits before the policy's own, see `Further`.

        Raises:
            UserError: no room for a prompt alongside the new tokens.
        """
        limits = _limits(max_new_tokens, len(prompts))
        rows = [
            self.fitting(self.token_ids(text, special=True), limit)
            for text, limit in zip(prompts, limits, strict=True)
        ]
        new = self.continue_ids(
            rows,
            policy,
            rngs,
            limits,
            batch_size=batch_size,
            stop=stop,
            progress=progress,
            further=further,
        )
        return [self.finished(row, ids, stop) for row, ids in zip(rows, new, strict=True)]

    @torch.no_grad()
    def continue_ids(
        self,
        rows: Sequence[list[int]],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int | Sequence[int],
        *,
        batch_size: int = 64,
        stop: str | None = None,
        progress: Progress = lambda items, description, total: items,
        further: Further | None = None,
    ) -> list[list[int]]:
        """New token ids of each row, up to and with its end; see `continuations`.

        Args:
            rows: N prompts as token ids that fit the context alongside the new tokens.
            policy: how tokens are chosen.
            rngs: one random stream per row.
            max_new_tokens: most tokens, one number or one per row.
            batch_size: rows per pass.
            stop: a character that ends a row.
            progress: wraps the loop over the batches.
            further: processors of logits before the policy's own, see `Further`.

        Raises:
            UserError: a row that does not fit.
            ValueError: `further` with contrastive search, which has no logits to process.
        """
        if further is not None and policy.strategy == "contrastive_search":
            raise ValueError("contrastive search takes no further processors")
        limits = _limits(max_new_tokens, len(rows))
        for row, limit in zip(rows, limits, strict=True):
            if len(row) + limit > self.context:
                raise UserError(
                    f"{len(row)} tokens of a prompt and {limit} new ones exceed this model's "
                    f"context of {self.context} tokens"
                )
        starts = range(0, len(rows), batch_size)
        texts: list[list[int]] = []
        for start in progress(starts, policy.strategy, len(starts)):
            part = slice(start, start + batch_size)
            shifted = None if further is None else _shifted(further, start)
            texts += self._generate_batch(
                rows[part], policy, rngs[part], limits[part], stop, shifted
            )
        return texts

    @torch.no_grad()
    def log_likelihood(
        self,
        prefixes: Sequence[str],
        continuations: Sequence[str],
        batch_size: int = 64,
        *,
        joint: str = " ",
    ) -> Tensor:
        """Mean log-probability per token of continuations given their prefixes, (N,) float32.

        A prefix that does not fit is cut on its left.

        Args:
            prefixes: N texts, not empty.
            continuations: N texts; an empty one has 0.
            batch_size: texts per pass.
            joint: stands between the two; "" for continuations that bring their own space.
        """
        rows, starts = [], []
        for prefix, text in zip(prefixes, continuations, strict=True):
            before, whole = (
                self.token_ids(prefix, special=True),
                self.token_ids(f"{prefix}{joint}{text}", True),
            )
            # without a text the joint is all that would be scored
            after = whole[len(before) :][: self.context - 1] if text else []
            before = before[-(self.context - len(after)) :]
            rows.append(before + after)
            starts.append(len(before))
        scores = []
        for first in range(0, len(rows), batch_size):
            part = slice(first, first + batch_size)
            ids, mask = self.batch(rows[part], left=False)
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            gold = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
            place = torch.arange(1, ids.shape[1], device=ids.device)
            begin = torch.tensor(starts[part], device=ids.device)
            scored = (place >= begin[:, None]) & mask[:, 1:].bool()
            scores.append(((gold * scored).sum(1) / scored.sum(1).clamp(min=1)).cpu())
        return torch.cat(scores)

    @torch.no_grad()
    def features(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Last layer's state at the last token, (N, D) float32 on the CPU (MAUVE's features)."""
        rows, parts = [self.token_ids(text, True)[: self.context] for text in texts], []
        for states, mask in self.states(rows, batch_size):
            last = mask.sum(1) - 1
            parts.append(states[torch.arange(len(states)), last].float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def states(
        self, rows: Sequence[Sequence[int]], batch_size: int = 64
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Last hidden states (B, S, D) and mask (B, S) of batches of rows of token ids."""
        takes, head = inspect.signature(self.model.forward).parameters, {}
        if "logits_to_keep" in takes:
            head = {"logits_to_keep": 1}  # nobody reads them, and the head is most of the memory
        for first in range(0, len(rows), batch_size):
            ids, mask = self.batch(rows[first : first + batch_size], left=False)
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **head)
            yield out.hidden_states[-1], mask

    def token_ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text, never none; `special` adds a start token where the model has one."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)[
            "input_ids"
        ]
        if special and ids and ids[-1] == self.eos and len(ids) > 1:
            ids = ids[:-1]  # nothing follows an end of text
        return ids or [self.pad]

    def fitting(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """A prompt cut on its left to what the context leaves alongside the new tokens.

        Raises:
            UserError: it leaves nothing.
        """
        room = self.context - max_new_tokens
        if room < 1:
            raise UserError(
                f"{max_new_tokens} new tokens leave no room for a prompt in this model's context "
                f"of {self.context} tokens"
            )
        return ids[-room:]

    def batch(self, rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, S) on the model's device, of rows padded on the left or right."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        return ids.to(self.device), mask.to(self.device)

    def _generate_batch(
        self,
        rows: Sequence[list[int]],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        limits: Sequence[int],
        stop: str | None,
        further: Further | None,
    ) -> list[list[int]]:
        """New ids of each row within its limit; rows that the longest one does not fit go alone."""
        most = max(limits)
        together = [i for i, row in enumerate(rows) if len(row) + most <= self.context]
        groups = [together] if together else []
        if policy.looks_back:  # padding would count as text
            lengths = dict.fromkeys(len(rows[i]) for i in together)
            groups = [[i for i in together if len(rows[i]) == length] for length in lengths]
        groups += [[i] for i in range(len(rows)) if i not in together]
        texts: list[list[int]] = [[] for _ in rows]
        for group in groups:
            budget = max(limits[i] for i in group)
            streams = [rngs[i] for i in group]
            group_processors = None if further is None else partial(further, group)
            new = self._generate(
                [rows[i] for i in group], policy, streams, budget, stop, group_processors
            )
            for i, ids in zip(group, new, strict=True):
                texts[i] = ids[: limits[i]]
        return texts

    def _generate(
        self,
        rows: Sequence[list[int]],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int,
        stop: str | None,
        further: Callable[[int], Sequence[LogitsProcessor]] | None = None,
    ) -> list[list[int]]:
        """New token ids of each row, up to and with the end of text."""
        if policy.strategy == "contrastive_search":
            return self._search(rows, policy, rngs, max_new_tokens, stop)
        ids, mask = self.batch(rows, left=True)
        ends, criteria = self.ends, self._stop_criteria(stop)
        more = held_back(criteria, ids.shape[1], min(policy.min_new_tokens, max_new_tokens))
        more += [] if further is None else further(ids.shape[1])
        config = generation_config(
            policy, max_new_tokens, pad_token_id=self.pad, eos_token_id=list(ends) or None
        )
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=processors(policy, rngs, self.amateur, more, mask),
            stopping_criteria=criteria,
        )
        new = out[:, ids.shape[1] :].tolist()
        return [until_end(row, ends, criteria) for row in new]

    def _search(
        self,
        rows: Sequence[list[int]],
        policy: Policy,
        rngs: Sequence[np.random.Generator],
        max_new_tokens: int,
        stop: str | None,
    ) -> list[list[int]]:
        """Contrastive search, after a beginning by nucleus sampling if the policy has one."""
        first = min(policy.nucleus_tokens, max_new_tokens)
        ends = ending_tokens(self.model, self.ends, self._stop_criteria(stop))
        begun: list[list[int]] = [[] for _ in rows]
        if first:
            begun = self._generate(rows, replace(policy, strategy="nucleus"), rngs, first, stop)
        going = [
            i
            for i, new in enumerate(begun)
            if len(new) == first and not (new and ends is not None and ends[new[-1]])
        ]
        if not going or first == max_new_tokens:
            return begun
        ids, mask = self.batch([rows[i] + begun[i] for i in going], left=True)
        out = contrastive_search(
            self.model,
            ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens - first,
            candidates=policy.candidates,
            penalty=policy.penalty,
            ends=ends,
            min_new_tokens=max(0, policy.min_new_tokens - first),
            exclude_prefix=policy.exclude_prefix,
            passes=self.passes,
        )
        for i, new in zip(going, out.tolist(), strict=True):
            begun[i] = begun[i] + until_end(new, self.ends, self._stop_criteria(stop))
        return begun

    def _stop_criteria(self, stop: str | None) -> Any:
        if stop not in self._stopping:
            self._stopping[stop] = stopping(self.model, self.tokenizer, stop)
        return self._stopping[stop]

    def finished(self, prompt: list[int], new: list[int], stop: str | None = None) -> Continuation:
        """The text that the new tokens add to the decoded prompt, spaces included."""
        ended = bool(new) and new[-1] in self.ends
        before = self.tokenizer.decode(prompt, skip_special_tokens=True)
        whole = self.tokenizer.decode(prompt + new, skip_special_tokens=True)
        text = whole[len(before) :]
        return Continuation(text if stop is None else text.partition(stop)[0], ended, len(new))


def _limits(max_new_tokens: int | Sequence[int], count: int) -> list[int]:
    return [max_new_tokens] * count if isinstance(max_new_tokens, int) else list(max_new_tokens)


def _shifted(further: Further, start: int) -> Further:
    return lambda rows, columns: further([start + row for row in rows], columns)


def cut_note(lm: LanguageModel, rows: Sequence[Sequence[int]], max_new_tokens: int) -> str | None:
    """How many prompts `LanguageModel.fitting` cuts, in words; None if all fit.

    Args:
        lm: the language model.
        rows: prompts as token ids, before they are cut.
        max_new_tokens: budget of a continuation.
    """
    room = lm.context - max_new_tokens
    cut = sum(len(row) > room for row in rows)
    if not cut:
        return None
    return (
        f"{cut} of {len(rows)} prompts are too long: the language model reads their last {room}"
        f" tokens (its context of {lm.context} without {max_new_tokens} new ones)"
    )
