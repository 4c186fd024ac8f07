"""LOL's score of the next token: contrasts of two layers, fused, and the refocus term.

A reconstruction where the card says so: the operator of the fusion, the formula of the refocus and
the choice of the layer stand in this file alone.

# ... any leading sizes (B rows, T places), V vocabulary
"""

import math
from dataclasses import dataclass

from torch import Tensor

from common.decoding.contrast import contrast, log_probabilities, plausible


@dataclass(frozen=True)
class Weights:
    """Of the terms; a term of weight 0 is not computed, so that its logits may be absent."""

    lambda_final: float = 1.0
    lambda_lower: float = 1.0
    beta: float = 1.0
    omega: float = 0.2
    rho: float = 0.5
    alpha: float = 0.0
    instruct_original: bool = False  # the original side of both contrasts reads the instruction
    post_softmax: bool = False  # the score is a distribution again before tokens are removed


@dataclass(frozen=True)
class Logits:
    """Of the next token, all (..., V); s is the refocus instruction, L the chosen lower layer."""

    original: Tensor  # theta on x
    amateur: Tensor | None = None  # theta' on x
    lower_original: Tensor | None = None  # theta on x, exit at L
    lower_amateur: Tensor | None = None  # theta' on x, exit at the same L
    instructed: Tensor | None = None  # theta on (s, x)
    lower_instructed: Tensor | None = None  # theta on (s, x), exit at L


def lol_scores(logits: Logits, weights: Weights, *, removed: float = -math.inf) -> Tensor:
    """Scores of all next tokens.

        F  = log p - lambda log p'                       Eq. 1   last layer
        F' = log p^L - lambda' log p'^L                  Eq. 2   lower layer
        F_fuse = beta F + omega F'                       Eq. 3   (reconstruction)
        F_tr = log p(. | s, x) - log p(. | x)            Eq. 4   (reconstruction)
        score = F_fuse + rho F_tr  among plausible tokens   Eq. 5   (reconstruction)

    Source: Chen et al. 2024, "Lower Layer Matters", arXiv 2408.08769 (Eq. 1 and 2 as a public
    review of v1 restates them); plausibility and lambda = 1: Zhang et al. 2023, "ICD", arXiv
    2312.15710.

    Args:
        logits: of the models and layers that `weights` asks for.
        weights: of the terms.
        removed: score of tokens that the original, without instruction, finds implausible.

    Returns:
        (..., V) in float32 at least.

    Raises:
        ValueError: logits of a term with a weight are absent.
    """
    first = logits.instructed if weights.instruct_original else logits.original
    lower = logits.lower_instructed if weights.instruct_original else logits.lower_original
    score: Tensor | None = None
    if weights.beta:
        final = _contrast(first, logits.amateur, weights.lambda_final)  # Eq. 1
        score = weights.beta * final
    if weights.omega:
        below = _contrast(lower, logits.lower_amateur, weights.lambda_lower)  # Eq. 2
        score = weights.omega * below if score is None else score + weights.omega * below  # Eq. 3
    if weights.rho:
        refocus = _contrast(logits.instructed, logits.original, 1.0)  # Eq. 4
        score = weights.rho * refocus if score is None else score + weights.rho * refocus  # Eq. 5
    if score is None:
        raise ValueError("beta, omega and rho are all 0: there is no score")
    if weights.post_softmax:  # DoLa's lm_score, which FACTOR's runner leaves on
        score = score.log_softmax(-1)
    # Eq. 5: by the original without instruction, before anything is subtracted
    return score.masked_fill(~plausible(log_probabilities(logits.original), weights.alpha), removed)


def _contrast(expert: Tensor | None, amateur: Tensor | None, weight: float) -> Tensor:
    if expert is None or (weight and amateur is None):
        raise ValueError("a term with a weight needs the logits of both of its sides")
    return contrast(expert, expert if amateur is None else amateur, alpha=0.0, beta=weight)
