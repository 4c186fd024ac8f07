"""What a loss returns, and the checks and reductions that all losses share."""

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

DistributedKind = Literal["local", "gathers_negatives", "reduces_statistics"]
"""How a loss behaves on several ranks; see the `Distributed:` section of each docstring."""


class Ranking:
    """Scores of all pairs; computes on request whether a positive scores highest in its row.

    Args:
        scores: (N, M), higher is more similar; excluded pairs are -inf.
        positive: (N, M) bool; or d if column i + d is the positive of row i; or the scores (B,) of
            the positives of the first B rows, which are then excluded from `scores`.
    """

    def __init__(self, scores: Tensor, positive: Tensor | int = 0) -> None:
        self.scores, self.positive = scores, positive

    @cached_property
    def hits(self) -> Tensor:
        """(N,) bool: no column scores higher than the best positive."""
        with torch.no_grad():
            scores, positive = self.scores.detach(), self.positive
            if isinstance(positive, Tensor) and positive.dtype == torch.bool:
                best = scores.masked_fill(~positive, -torch.inf).amax(1)
                return (best >= scores.amax(1)) & ~best.isneginf()
            lead = positive if isinstance(positive, Tensor) else scores.diagonal(positive)
            return lead.detach() >= scores[: len(lead)].amax(1)


class LossOutput(NamedTuple):
    """A loss, its values per sample, and hits, all from one pass over the similarities.

    Attributes:
        loss: scalar with gradient; call `backward` on this one.
        rows: `per_sample`, or a function that computes it on request.
        ranking: `hits`, or a `Ranking` that computes them on request.
    """

    loss: Tensor
    rows: Tensor | Callable[[], Tensor]
    ranking: Tensor | Ranking | None

    @property
    def per_sample(self) -> Tensor:
        """(B,) loss of every local row, with gradient; 0 for excluded rows."""
        return self.rows if isinstance(self.rows, Tensor) else self.rows()

    @property
    def hits(self) -> Tensor | None:
        """(B,) bool, whether the most similar candidate of the row is a positive.

        None if the loss ranks no candidates.
        """
        return self.ranking.hits if isinstance(self.ranking, Ranking) else self.ranking


def check_pair(query: Tensor, key: Tensor, *, same_rows: bool = True, names: str = "") -> None:
    """Raise ValueError if two embedding matrices do not fit each other.

    Args:
        query: must be (N, D), N >= 1.
        key: must be (M, D) of the same D; M = N if `same_rows`.
        same_rows: whether row i of `query` and row i of `key` form a pair.
        names: of both in the message, for example "image, text".

    Raises:
        ValueError: a condition above fails; the message has both shapes.
    """
    if not (isinstance(query, Tensor) and isinstance(key, Tensor)):
        found = f"{type(query).__name__} and {type(key).__name__}"
        raise ValueError(f"{names or 'query, key'} must be tensors (rows, dim), got {found}")
    if query.shape == key.shape and query.ndim == 2 and query.dtype is key.dtype and query.numel():
        return
    label = names or "query, key"
    shapes = f"{label} have shapes {tuple(query.shape)} and {tuple(key.shape)}"
    if query.ndim != 2 or key.ndim != 2:
        raise ValueError(f"expected two matrices (rows, dim); {shapes}")
    if query.shape[1] != key.shape[1]:
        raise ValueError(f"embedding dimensions differ; {shapes}")
    if query.shape[0] == 0 or key.shape[0] == 0:
        raise ValueError(f"no rows; {shapes}")
    if same_rows and query.shape[0] != key.shape[0]:
        raise ValueError(f"row i of one is the partner of row i of the other; {shapes}")
    if torch.float64 in (query.dtype, key.dtype) and query.dtype != key.dtype:
        raise ValueError(f"{label} are {query.dtype} and {key.dtype}; convert one of them")


def unit(x: Tensor) -> Tensor:
    """L2-normalise rows in at least float32; a zero vector stays zero with a zero gradient.

    Args:
        x: (..., D), floating point.

    Returns:
        (..., D), float64 for float64 input, else float32.
    """
    x = at_least_float32(x)
    # not `F.normalize`: at N = 16 its Python code takes as long as the operations
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(1e-12)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; keep other floating dtypes.

    Raises:
        ValueError: integers.
    """
    if isinstance(x, Tensor) and x.dtype in (torch.float32, torch.float64):
        return x
    if not isinstance(x, Tensor):
        raise ValueError(f"embeddings must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"embeddings must be floating point, got {x.dtype}")
    return x.float()


def embeddings(x: Tensor, normalize: bool) -> Tensor:
    """Embeddings in at least float32, L2-normalised if `normalize`."""
    return unit(x) if normalize else at_least_float32(x)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss to run outside autocast, which would round logits to half precision."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                if not autocasts(x):
                    break
                with torch.autocast(x.device.type, enabled=False):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper


def autocasts(x: Tensor) -> bool:
    """Whether autocast would round operations on this tensor."""
    kind = x.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)


def mean_rows(per_sample: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over valid rows; 0 (with a zero gradient) if there is none.

    Args:
        per_sample: (N,).
        valid: (N,) bool; None includes all rows.
    """
    if valid is None:
        return per_sample.mean()
    return torch.where(valid, per_sample, 0).sum() / valid.sum().clamp(min=1)
