"""How the next token is chosen: the logits processors of a policy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from common.config import UserError
from common.decoding.contrastive import ContrastiveDecoding
from common.decoding.options import Policy

# `generate` fills what is left open from the model's own settings, such as a chat model's
# repetition penalty; a policy is all that is said here. Forced and forbidden tokens, which belong
# to an architecture (Marian never writes its padding), stay open
_NEUTRAL = {
    "do_sample": False,  # the draw is in `SeededSampling`
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "early_stopping": False,
}


class SeededSampling(LogitsProcessor):
    """Draws the next token of every row from that row's own stream.

    One uniform number a step picks the token by the inverse of the cumulated probabilities; all
    other tokens get -inf, so that greedy search returns the draw. A row's tokens depend on its own
    stream and logits only, not on its neighbours.

    Args:
        rngs: one generator per row.
    """

    def __init__(self, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = rngs

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) that are 0 at the drawn token and -inf elsewhere."""
        mass = torch.softmax(scores.double(), dim=-1).cumsum(-1)
        draw = torch.tensor([rng.random() for rng in self.rngs], dtype=mass.dtype)
        place = draw.to(mass.device)[:, None] * mass[:, -1:]
        token = torch.searchsorted(mass, place, right=True).clamp(max=mass.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


Further = Callable[[list[int], int], Sequence[LogitsProcessor]]
"""(places of a batch's rows among all prompts, columns of the padded prompts) -> processors that
run before those of the policy."""


def processors(
    policy: Policy,
    rngs: Sequence[np.random.Generator],
    amateur: Any = None,
    further: Sequence[LogitsProcessor] = (),
    mask: Tensor | None = None,
) -> LogitsProcessorList:
    """Processors that turn transformers' greedy search into the policy.

    Args:
        policy: any strategy but contrastive search, which is a loop of its own.
        rngs: one generator per row, for the strategies that sample.
        amateur: causal LM for contrastive decoding, with the expert's vocabulary.
        further: stand before the policy's own.
        mask: (B, S) of the prompts, 0 at padding, for contrastive decoding; None: there is none.

    Raises:
        UserError: contrastive decoding without an amateur.
    """
    chosen: list[Any] = [*further]
    if policy.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(policy.repetition_penalty))
    if policy.no_repeat_ngram:
        chosen.append(NoRepeatNGramLogitsProcessor(policy.no_repeat_ngram))
    if policy.samples:
        chosen.append(TemperatureLogitsWarper(policy.temperature))
        if policy.strategy == "nucleus":
            chosen.append(TopPLogitsWarper(policy.top_p))
        if policy.strategy == "top_k":
            chosen.append(TopKLogitsWarper(policy.top_k))
        if policy.strategy == "typical":
            chosen.append(TypicalLogitsWarper(policy.typical_p))
        chosen.append(SeededSampling(rngs))
    if policy.strategy == "contrastive_decoding":
        if amateur is None:
            raise UserError("contrastive decoding needs an amateur language model")
        chosen.append(
            ContrastiveDecoding(
                amateur,
                policy.plausibility,
                temperature=policy.amateur_temperature,
                context=policy.amateur_context,
                mask=mask,
            )
        )
    return LogitsProcessorList(chosen)


def generation_config(policy: Policy, max_new_tokens: int, **ids: Any) -> GenerationConfig:
    """Options of transformers' `generate` for a policy, whatever the model's own settings are.

    Args:
        policy: any strategy but contrastive search.
        max_new_tokens: most tokens.
        **ids: special tokens, by the library's names.
    """
    options = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min(policy.min_new_tokens, max_new_tokens),
    }
    if policy.strategy == "beam_search":
        options["num_beams"] = policy.num_beams
    config: GenerationConfig = GenerationConfig.from_dict({**_NEUTRAL, **options, **ids})
    return config
