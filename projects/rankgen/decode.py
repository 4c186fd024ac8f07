"""Ranking continuations of a language model: re-ranking whole samples, and beam search."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.data.samplers import sample_rng
from common.decoding.language_model import Continuation, LanguageModel
from common.decoding.options import Policy
from common.evaluation.generation.measures import truncate
from projects.rankgen.encoder import Kind

STREAM = 63


class Ranker(Protocol):
    """What scores: a `PrefixSuffixEncoder`."""

    def encode(self, texts: str | Sequence[str], kind: Kind) -> Tensor:
        """N texts -> (N, D)."""


class Beam(NamedTuple):
    """Text after the prefix, as the language model wrote it."""

    text: str
    ended: bool
    score: float = 0.0


def stream(seed: int, prefix: int, place: int, sample: int) -> np.random.Generator:
    """Random stream of one sample; `place` numbers (round, beam) of a search."""
    return sample_rng(seed, prefix, sample, STREAM + 256 * place)


def scores(ranker: Ranker, prefix: Tensor, texts: Sequence[str]) -> Tensor:
    """Dot products of a prefix vector (D,) with the vectors of N texts, (N,); -inf for empty ones.

    Deviation: the released code scores an empty continuation too, which can then be the best one.
    """
    plain = [" ".join(text.split()) for text in texts]
    value = ranker.encode([text or "." for text in plain], "suffix") @ prefix
    return value.masked_fill(torch.tensor([not text for text in plain]), -torch.inf)


def overgenerate(
    ranker: Ranker,
    lm: LanguageModel,
    prefix: str,
    policy: Policy,
    *,
    num_samples: int = 20,
    max_tokens: int = 115,
    seed: int = 0,
    index: int = 0,
) -> list[Beam]:
    """N whole samples, best score first.

    Source: Krishna et al. 2022, section 3.3, arXiv 2205.09726.

    Args:
        ranker: scores prefix and samples.
        lm: writes them.
        prefix: text to continue.
        policy: how the language model samples.
        num_samples: N.
        max_tokens: of the language model, per sample.
        seed: of the streams.
        index: of the prefix, part of the stream.
    """
    rngs = [stream(seed, index, 0, j) for j in range(num_samples)]
    continuations = lm.continuations([prefix] * num_samples, policy, rngs, max_tokens)
    return rank(ranker, ranker.encode(prefix, "prefix")[0], continuations)


def rank(ranker: Ranker, prefix: Tensor, continuations: Sequence[Continuation]) -> list[Beam]:
    """Continuations as beams, best score first, ties in their order."""
    value = scores(ranker, prefix, [c.text for c in continuations])
    order = torch.argsort(value, descending=True, stable=True).tolist()
    return [Beam(continuations[i].text, True, float(value[i])) for i in order]


def beam_search(
    ranker: Ranker,
    lm: LanguageModel,
    prefix: str,
    policy: Policy,
    *,
    num_beams: int = 2,
    num_samples: int = 10,
    segment_tokens: int = 20,
    max_tokens: int = 115,
    seed: int = 0,
    index: int = 0,
    watch: Callable[[Sequence[str]], None] | None = None,
) -> list[Beam]:
    """Beam search over segments: each beam is continued N times, the B best texts so far stay.

    What is scored is always the whole text of a beam, against a prefix vector that is computed
    once. A beam ends with the end-of-text token or at `max_tokens`; ended beams compete unchanged.

    Source: Krishna et al. 2022, section 3.3 and algorithm in the appendix, arXiv 2205.09726; the
    released code.

    Args:
        ranker: scores prefix and beams.
        lm: continues ``prefix + beam``.
        prefix: text to continue.
        policy: how the language model samples.
        num_beams: B.
        num_samples: N, segments per beam and round.
        segment_tokens: L, tokens of a segment.
        max_tokens: of a beam; B = 1 and L = max_tokens is `overgenerate`.
        seed: of the streams.
        index: of the prefix, part of the stream.
        watch: called with the texts that are scored in each round.

    Returns:
        B beams, best first.

    Deviation: the released loop counts generated tokens over all prefixes of a call; here each
        prefix starts at 0.
    """
    vector = ranker.encode(prefix, "prefix")[0]
    beams = [Beam("", False)] * num_beams
    used, step = 0, 0
    while not all(beam.ended for beam in beams):
        budget = min(segment_tokens, max_tokens - used)
        used += budget
        pool = [beam for beam in beams if beam.ended]
        for b, beam in enumerate(beams):
            if beam.ended:
                continue
            place = step * num_beams + b
            rngs = [stream(seed, index, place, j) for j in range(num_samples)]
            new = lm.continuations([prefix + beam.text] * num_samples, policy, rngs, budget)
            pool += [Beam(beam.text + c.text, c.ended or used >= max_tokens) for c in new]
        texts = [beam.text for beam in pool]
        if watch is not None:
            watch(texts)
        value = scores(ranker, vector, texts)
        order = torch.argsort(value, descending=True, stable=True)[:num_beams].tolist()
        beams = [
            Beam(
                pool[i].text, pool[i].ended or _full(lm, pool[i].text, max_tokens), float(value[i])
            )
            for i in order
        ]
        step += 1
    return beams


def tidy(text: str) -> str:
    """A continuation as it is published: white space collapsed, cut at its last sentence end."""
    return truncate(" ".join(text.split()))


def _full(lm: LanguageModel, text: str, max_tokens: int) -> bool:
    return lm.count_tokens(text) >= max_tokens
