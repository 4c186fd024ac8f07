"""Specifications: which pairs of a contrastive loss count, and how much.

A *spec* says, for every pair (query i, key j), four things without storing an N x M matrix:

    A (rows)    mask of the pairs that enter the row denominators     True = the pair counts
    B (columns) mask of the pairs that enter the column denominators  (equal to A unless stated)
    omega       weight of the pair in ``row_lin`` (the numerator)
    beta        detached additive bias of the logit inside the exponentials

Specs are frozen dataclasses. ``a & b`` intersects the masks and adds weights and biases; ``a | b``
unites the masks (mask-only specs). "Positive" pairs are those that Diagonal, Index, Partner, Block
or Labels mark. Omega is *not* restricted by A: `Diagonal() & ExcludePositive()` is DCL.

The tile methods are ``mask(tile, side)`` (A or B), ``omega(tile)``, ``beta(tile)`` and
``positive(tile)``; None stands for "all", 0, 0 and "none".

For other back ends (Triton, sharding) every spec is described by

    spec.atoms()      tuple of conjunction members (``Or`` is one atom, of kind "or")
    atom.kind         the string in the table
    atom.static()     dict of Python numbers / strings / bools     -> compile-time constants
    atom.side_data()  dict name -> Tensor, only the ones present   -> kernel arguments
    SIDES[name]       "q": indexed by query row i, "k": indexed by key column j

    kind              static                       side data               meaning (i, j global)
    all               -                            -                       every pair counts
    diagonal          weight                       -                       omega = weight*[j == i]
    index             weight                       pos                     omega = weight*[j == pos_i]
    partner           half                         -                       omega = [j == i + half],
                                                                           modulo 2*half
    block             size                         -                       omega = [j//size == i]/size
    labels            exclude_self, average        query, key, count       omega = [same, not self],
                                                                           / count if average
    uniform           weight                       -                       omega = weight
    lowrank           mode, factor, shift, masked  u, v, row_shift         omega = f(u_i.v_j)
    exclude_self      -                            -                       mask j != i
    exclude_positive  -                            -                       mask: not positive
    only_positive     -                            -                       mask: positive
    exclude           keep_positive                query, key, second      mask key_j not in
                                                                           {query_i, second_i},
                                                                           or positive
    valid             -                            query, key (bool)       mask query_i and key_j
    threshold         keep_positive                u, v, thr, thr_columns  A: u_i.v_j <= thr_i,
                                                                           B: <= thr_columns_j
    bias              factor, positive_value       row, column, u, v       beta = row_i + column_j
                                                                           + factor*u_i.v_j
                                                                           + positive_value*[pos.]

Sharding: local row 0 is global row ``row_start`` and local column 0 is global column ``col_start``
(see `spec_base.Tile`); side tensors are local to the given rows and columns, ``Index.pos`` holds
global columns. ``encode`` / ``decode`` turn a spec into a static string and a list of tensors and
back.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .base import (
    SIDES,
    All,
    And,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    OnlyPositive,
    Or,
    Side,
    Spec,
    Threshold,
    Tile,
    Valid,
    inner,
)

__all__ = [
    "SIDES",
    "All",
    "And",
    "Bias",
    "Block",
    "Diagonal",
    "Exclude",
    "ExcludePositive",
    "ExcludeSelf",
    "Index",
    "Labels",
    "LowRank",
    "OnlyPositive",
    "Or",
    "Partner",
    "Side",
    "Spec",
    "Threshold",
    "Tile",
    "Uniform",
    "Valid",
    "decode",
    "encode",
    "nt_xent_spec",
]


@dataclass(frozen=True, eq=False)
class Diagonal(Spec):
    """Key i is the positive of query i; further keys (M > N) are negatives."""

    weight: float = 1.0
    kind: ClassVar[str] = "diagonal"

    def _positive(self, tile: Tile) -> Tensor | None:
        return tile.on_diagonal()

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        return _scaled(self._positive(tile), self.weight, dtype)


@dataclass(frozen=True, eq=False)
class Index(Spec):
    """Key ``pos[i]`` is the positive of query i. pos: (N,) int64 global columns, -1 = none."""

    pos: Tensor
    weight: float = 1.0
    kind: ClassVar[str] = "index"

    def _positive(self, tile: Tile) -> Tensor | None:
        return self.pos[tile.r0 : tile.r1, None] == tile.col_ids()[None, :]

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        return _scaled(self._positive(tile), self.weight, dtype)


@dataclass(frozen=True, eq=False)
class Partner(Spec):
    """Two views stacked (z = [view_1; view_2]): row i belongs with row (i + half) mod 2*half."""

    half: int
    kind: ClassVar[str] = "partner"

    def _positive(self, tile: Tile) -> Tensor | None:
        partner = (tile.row_ids() + self.half) % (2 * self.half)
        return partner[:, None] == tile.col_ids()[None, :]

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        return _scaled(self._positive(tile), 1.0, dtype)


@dataclass(frozen=True, eq=False)
class Block(Spec):
    """Keys i*size ... i*size + size - 1 are the positives of query i, each of weight 1/size."""

    size: int
    kind: ClassVar[str] = "block"

    def _positive(self, tile: Tile) -> Tensor | None:
        owner = torch.div(tile.col_ids(), self.size, rounding_mode="floor")
        return tile.row_ids()[:, None] == owner[None, :]

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        return _scaled(self._positive(tile), 1.0 / self.size, dtype)


@dataclass(frozen=True, eq=False)
class Labels(Spec):
    """Keys with the label of the query are its positives (SupCon).

    Args:
        query: (N,) int64 labels.
        key: (M,) int64 labels.
        exclude_self: leave the pair i == j out of positives and denominators (keys are queries).
        average: divide the weights by the number of positives |P_i|.
        count: (N,) number of positives per query; counted from `key` if None. Give it when `key`
            holds only a part of all keys.
    """

    query: Tensor
    key: Tensor
    exclude_self: bool = False
    average: bool = True
    count: Tensor | None = None
    kind: ClassVar[str] = "labels"

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        return tile.off_diagonal() if self.exclude_self else None

    def _positive(self, tile: Tile) -> Tensor | None:
        same = self.query[tile.r0 : tile.r1, None] == self.key[None, tile.c0 : tile.c1]
        off = tile.off_diagonal() if self.exclude_self else None
        return same if off is None else same & off

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        omega = _scaled(self._positive(tile), 1.0, dtype)
        if omega is None or not self.average:
            return omega
        count = self.positives(tile.row_start - tile.col_start)
        return omega / count.clamp(min=1)[tile.r0 : tile.r1, None].to(dtype)

    def positives(self, shift: int | None = None) -> Tensor:
        """Number of positives of each query, (N,), without a host sync; `shift` as in `prepare`."""
        if self.count is not None:
            return self.count
        ordered = self.key.sort().values
        upper = torch.searchsorted(ordered, self.query, right=True)
        count = upper - torch.searchsorted(ordered, self.query)
        return count - self.self_pairs(shift) if self.exclude_self else count

    def self_pairs(self, shift: int | None = None) -> Tensor:
        """1 where the query itself is among the keys, under the same label, (N,) int64."""
        if shift is None:
            return torch.ones_like(self.query)
        positions = torch.arange(len(self.query), device=self.query.device) + shift
        inside = (positions >= 0) & (positions < len(self.key))
        same = self.key[positions.clamp(0, len(self.key) - 1)] == self.query
        return (inside & same).long()

    def prepare(self, shift: int | None = None) -> Spec:
        """Derived side data filled in, tensors detached."""
        return Labels(self.query, self.key, self.exclude_self, self.average, self.positives(shift))


@dataclass(frozen=True, eq=False)
class Uniform(Spec):
    """Omega = weight for every pair (the uniform part of label smoothing)."""

    weight: float
    kind: ClassVar[str] = "uniform"

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        return torch.full((1, 1), self.weight, dtype=dtype, device=tile.device)


@dataclass(frozen=True, eq=False)
class LowRank(Spec):
    """Omega from side features: omega_ij = f(x), x = <u_i, v_j>. Detached.

    Args:
        u: (N, r) side features of the queries. v: (M, r) of the keys.
        mode: "affine": factor*x + shift; "relu": max(0, factor*x + shift);
            "softmax": exp(factor*x - row_shift_i), row_shift = logsumexp of factor*x over the keys.
        masked: set omega to 0 where the row mask A of the whole spec is False.
    """

    u: Tensor
    v: Tensor
    mode: Literal["affine", "relu", "softmax"] = "affine"
    factor: float = 1.0
    shift: float = 0.0
    row_shift: Tensor | None = None
    masked: bool = False
    kind: ClassVar[str] = "lowrank"

    def __post_init__(self) -> None:
        if self.mode not in ("affine", "relu", "softmax"):
            raise ValueError(f"LowRank.mode must be affine, relu or softmax, got {self.mode!r}")
        if (self.mode == "softmax") != (self.row_shift is not None):
            raise ValueError("LowRank.row_shift belongs to mode='softmax' and is required there")

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        omega = inner(self.u, self.v, tile).to(dtype) * self.factor
        if self.row_shift is not None:
            return (omega - self.row_shift[tile.r0 : tile.r1, None]).exp()
        omega = omega + self.shift
        return omega.clamp(min=0) if self.mode == "relu" else omega

    def prepare(self, shift: int | None = None) -> Spec:
        """Derived side data filled in, tensors detached."""
        fixed = None if self.row_shift is None else self.row_shift.detach()
        u, v = self.u.detach(), self.v.detach()
        return LowRank(u, v, self.mode, self.factor, self.shift, fixed, self.masked)


@dataclass(frozen=True, eq=False)
class Bias(Spec):
    """Detached additive bias inside the exponentials (sampling correction, hardness, margin).

    beta_ij = row_i + column_j + factor * <u_i, v_j> + positive * [j is a positive of i]
    """

    row: Tensor | None = None
    column: Tensor | None = None
    u: Tensor | None = None
    v: Tensor | None = None
    factor: float = 1.0
    positive_value: float = 0.0
    kind: ClassVar[str] = "bias"

    def __post_init__(self) -> None:
        if (self.u is None) != (self.v is None):
            raise ValueError("Bias needs both u and v, or neither")

    def _beta(self, tile: Tile, positive: Tensor | None) -> Tensor | None:
        beta = torch.zeros(1, 1, device=tile.device)
        if self.row is not None:
            beta = beta + self.row[tile.r0 : tile.r1, None]
        if self.column is not None:
            beta = beta + self.column[None, tile.c0 : tile.c1]
        if self.u is not None and self.v is not None:
            beta = beta + self.factor * inner(self.u, self.v, tile)
        if self.positive_value and positive is not None:
            beta = beta + self.positive_value * positive
        return beta

    def prepare(self, shift: int | None = None) -> Spec:
        """Derived side data filled in, tensors detached."""
        row, column, u, v = (
            None if t is None else t.detach() for t in (self.row, self.column, self.u, self.v)
        )
        return Bias(row, column, u, v, self.factor, self.positive_value)


def nt_xent_spec(num_pairs: int) -> Spec:
    """Two stacked views of `num_pairs` samples: partner positive, self left out (NT-Xent)."""
    return Partner(num_pairs) & ExcludeSelf()


def _scaled(hit: Tensor | None, weight: float, dtype: torch.dtype) -> Tensor | None:
    return None if hit is None else hit.to(dtype) * weight


_KINDS: dict[str, type[Spec]] = {
    c.kind: c
    for c in (
        All,
        Diagonal,
        Index,
        Partner,
        Block,
        Labels,
        Uniform,
        LowRank,
        ExcludeSelf,
        ExcludePositive,
        OnlyPositive,
        Exclude,
        Valid,
        Threshold,
        Bias,
    )
}


def encode(spec: Spec) -> tuple[str, list[Tensor]]:
    """Static description and tensors of a spec, for operator schemas; `decode` reverses it.

    The description is a Python literal, put together by plain string operations so that
    torch.compile can trace it.
    """
    if isinstance(spec, And | Or):
        parts = [encode(p) for p in spec.parts]
        inside = "".join([f"{description}, " for description, _ in parts])
        return f"('{spec.kind}', ({inside}))", [t for _, tensors in parts for t in tensors]
    side = spec.side_data()
    static = "".join([f"{name!r}: {value!r}, " for name, value in spec.static().items()])
    names = "".join([f"{name!r}, " for name in side])
    return f"('{spec.kind}', {{{static}}}, ({names}))", list(side.values())


def decode(description: str, tensors: Sequence[Tensor]) -> Spec:
    """Inverse of `encode`."""
    return _build(ast.literal_eval(description), iter(tensors))


def _build(node: tuple[Any, ...], tensors: Iterator[Tensor]) -> Spec:
    kind, *content = node
    if kind in ("and", "or"):
        parts = tuple(_build(part, tensors) for part in content[0])
        return And(parts) if kind == "and" else Or(parts)
    static, names = content
    return _KINDS[kind](**static, **{name: next(tensors) for name in names})
