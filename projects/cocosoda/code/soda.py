"""Soft data augmentation of code and queries: tokens masked or replaced by their types.

All take ids without special tokens, so that those are never touched.

# L tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.data.text.masking import mask_tokens
from projects.cocosoda.code.types import STRATEGIES, Strategy

Ids = NDArray[np.int64]
_KEPT = 0.2  # of the chosen tokens that are replaced by their types


@dataclass(frozen=True)
class SoftAugmentation:
    """The four augmentations of one step.

    | strategy | paper | what becomes of the code |
    |---|---|---|
    | mask | DM | chosen tokens: 80 % the mask, 10 % a random token, 10 % stay |
    | replace | DR | of the chosen tokens 80 % become the token of their type |
    | replace_type | DRST | tokens of one type become its token |
    | mask_type | DMST | tokens of one type become the mask |

    Source: Shi et al. 2023, "CoCoSoDa", section 3.2, arXiv 2204.03293; shares as in the released
    code.

    Attributes:
        mask_id: of the mask token.
        type_ids: (T,) id of the token of each type, in the order of `code.types.TYPES`.
        vocab_size: random tokens are drawn below it.
        special: ids that are never changed.
        ratio: share of the tokens that "mask" and "replace" choose.
        type_ratio: share of the tokens of the type that the other two change.
    """

    mask_id: int
    type_ids: Ids
    vocab_size: int
    special: Sequence[int] = ()
    ratio: float = 0.15
    type_ratio: float = 1.0

    def code(
        self, strategy: Strategy, ids: Ids, types: Ids, rng: np.random.Generator, chosen_type: int
    ) -> Ids:
        """Augmented code.

        Args:
            strategy: which of the four.
            ids: (L,).
            types: (L,) place of each token's type, -1 for none.
            rng: source of randomness.
            chosen_type: place of the type that "replace_type" and "mask_type" change.

        Raises:
            ValueError: an unknown strategy, or ids and types of unequal length.
        """
        if strategy not in STRATEGIES or ids.shape != types.shape:
            raise ValueError(f"{strategy!r} of {STRATEGIES}, ids {ids.shape}, types {types.shape}")
        if strategy == "mask":
            return self.query(ids, rng)
        typed = (types >= 0) & ~np.isin(ids, self.special)
        if strategy == "replace":
            draw = rng.random(ids.shape) < self.ratio
            chosen = typed & draw & (rng.random(ids.shape) >= _KEPT)
        else:
            chosen = typed & (types == chosen_type) & (rng.random(ids.shape) < self.type_ratio)
        replacement = self.mask_id if strategy == "mask_type" else self.type_ids[types]
        return np.where(chosen, replacement, ids)

    def query(self, ids: Ids, rng: np.random.Generator) -> Ids:
        """Dynamic masking of a text (L,)."""
        masked, _ = mask_tokens(
            ids,
            np.isin(ids, self.special),
            rng,
            mask_id=self.mask_id,
            vocab_size=self.vocab_size,
            probability=self.ratio,
        )
        return masked
