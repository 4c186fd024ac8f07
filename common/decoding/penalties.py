"""Samples with penalties on what was written already, as hosted language models offer them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from common.data.samplers import Rng
from common.decoding.options import Policy
from common.decoding.policies import processors
from common.decoding.stopping import stopping, until_end


class WrittenPenalty(LogitsProcessor):
    """Lowers the logits of tokens that were written after the prompt.

        l'_v = l_v - f n_v - p [n_v > 0],  n_v the number of times that v was written

    Source: "frequency_penalty" and "presence_penalty" of the OpenAI completions interface.

    Args:
        prompt_length: tokens of the (padded) prompts, which do not count.
        frequency: f.
        presence: p.
    """

    def __init__(self, prompt_length: int, frequency: float, presence: float) -> None:
        self.start, self.frequency, self.presence = prompt_length, frequency, presence

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) scores with the penalties."""
        new = input_ids[:, self.start :]
        counts = torch.zeros_like(scores).scatter_add_(
            1, new, torch.ones_like(new, dtype=scores.dtype)
        )
        return scores - self.frequency * counts - self.presence * (counts > 0).to(scores.dtype)


@torch.no_grad()
def penalized_samples(
    lm: Any,
    prompts: Sequence[str],
    policy: Policy,
    rngs: Sequence[Rng],
    max_new_tokens: int,
    *,
    frequency: float = 0.0,
    presence: float = 0.0,
    batch_size: int = 16,
    stop: str | None = None,
) -> list[str]:
    """Continuations of prompts under penalties; a row depends on its own stream alone.

    Args:
        lm: `LanguageModel` or `SequenceToSequence`.
        prompts: N texts; what does not fit is cut as the model cuts its prompts.
        policy: a sampling strategy, or greedy.
        rngs: one random stream a prompt.
        max_new_tokens: most tokens.
        frequency: see `WrittenPenalty`.
        presence: see `WrittenPenalty`.
        batch_size: prompts a pass.
        stop: a character that ends an answer and is left out.
    """
    criteria = stopping(lm.model, lm.tokenizer, stop)
    encoder_decoder = bool(lm.model.config.is_encoder_decoder)
    eos, pad = lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id
    pad = (eos if eos is not None else 0) if pad is None else pad
    found: list[str] = []
    for first in range(0, len(prompts), batch_size):
        part = slice(first, first + batch_size)
        if encoder_decoder:
            inputs, length = lm.inputs(prompts[part]), 1
        else:
            rows = [
                lm.fitting(lm.token_ids(text, special=True), max_new_tokens)
                for text in prompts[part]
            ]
            length = max(map(len, rows))
            ids = torch.full((len(rows), length), pad, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for i, row in enumerate(rows):
                ids[i, length - len(row) :], mask[i, length - len(row) :] = torch.tensor(row), 1
            inputs = {"input_ids": ids.to(lm.device), "attention_mask": mask.to(lm.device)}
        chain: Any = [WrittenPenalty(length, frequency, presence), *processors(policy, rngs[part])]
        out = lm.model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=eos,
            pad_token_id=pad, logits_processor=LogitsProcessorList(chain), stopping_criteria=criteria,
        )  # fmt: skip
        for row in out[:, length:].tolist():
            text = lm.tokenizer.decode(until_end(row, eos, criteria), skip_special_tokens=True)
            found.append(text.split(stop)[0] if stop else text)
    return found
