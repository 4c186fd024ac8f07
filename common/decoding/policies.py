"""How the next token is chosen: one options object, and its logits processors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from common.config import UserError
from common.decoding.contrastive import ContrastiveDecoding

Strategy = Literal[
    "greedy", "ancestral", "nucleus", "top_k", "typical", "contrastive_search",
    "contrastive_decoding",
]  # fmt: skip
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
SAMPLING: tuple[Strategy, ...] = ("ancestral", "nucleus", "top_k", "typical")


@dataclass(frozen=True)
class Policy:
    """A decoding strategy with its options; an option that the strategy lacks has no effect.

    Sources: nucleus: Holtzman et al. 2020, arXiv 1904.09751; top-k: Fan et al. 2018, arXiv
    1805.04833; typical: Meister et al. 2023, arXiv 2202.00666; contrastive search: Su et al. 2022,
    arXiv 2202.06417; contrastive decoding: Li et al. 2023, arXiv 2210.15097.
    """

    strategy: Strategy = "nucleus"
    temperature: float = 1.0  # of the sampling strategies, > 0
    top_p: float = 0.9  # nucleus, in (0, 1]
    top_k: int = 40  # top_k
    typical_p: float = 0.9  # typical, in (0, 1)
    candidates: int = 5  # contrastive_search
    penalty: float = 0.6  # contrastive_search, alpha in [0, 1]
    plausibility: float = 0.1  # contrastive_decoding, alpha in (0, 1]
    amateur_temperature: float = 0.5  # contrastive_decoding, > 0
    amateur_context: int | None = 1  # tokens that the amateur sees; None: all

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy must be one of {STRATEGIES}, got {self.strategy!r}")
        if min(self.temperature, self.amateur_temperature) <= 0 or not 0 < self.top_p <= 1:
            raise UserError("decoding needs temperatures > 0 and top_p in (0, 1]")
        if min(self.top_k, self.candidates) < 1 or not 0 < self.typical_p < 1:
            raise UserError("decoding needs top_k, candidates >= 1 and typical_p in (0, 1)")
        if not 0 <= self.penalty <= 1 or not 0 < self.plausibility <= 1:
            raise UserError("decoding needs penalty in [0, 1] and plausibility in (0, 1]")

    @property
    def samples(self) -> bool:
        """Whether the result depends on a random stream."""
        return self.strategy in SAMPLING


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


def processors(
    policy: Policy, rngs: Sequence[np.random.Generator], amateur: Any = None
) -> LogitsProcessorList:
    """Processors that turn transformers' greedy search into the policy.

    Args:
        policy: any strategy but contrastive search, which is a loop of its own.
        rngs: one generator per row, for the strategies that sample.
        amateur: causal LM for contrastive decoding, with the expert's vocabulary.

    Raises:
        UserError: contrastive decoding without an amateur.
    """
    chosen: list[Any] = []
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
            )
        )
    return LogitsProcessorList(chosen)
