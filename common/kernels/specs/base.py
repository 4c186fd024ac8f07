"""Tile geometry, the composition rules of pair specs, and those that only mask.

The others are in weights.py.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["rows", "columns"]

SIDES: dict[str, str] = {
    "query": "q",
    "second": "q",
    "pos": "q",
    "count": "q",
    "u": "q",
    "row_shift": "q",
    "thr": "q",
    "row": "q",
    "key": "k",
    "v": "k",
    "thr_columns": "k",
    "column": "k",
}


class Tile(NamedTuple):
    """A rectangle of the pair matrix: local rows r0:r1, local columns c0:c1, global offsets."""

    r0: int
    r1: int
    c0: int
    c1: int
    row_start: int = 0
    col_start: int = 0
    device: torch.device | str = "cpu"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.r1 - self.r0, self.c1 - self.c0

    @property
    def diagonal(self) -> int:
        """Offset o such that entry (a, a + o) of the tile is a pair with equal global indices."""
        return self.row_start + self.r0 - self.col_start - self.c0

    @property
    def meets_diagonal(self) -> bool:
        """Whether the tile holds pairs with equal global indices."""
        rows, cols = self.shape
        return -rows < self.diagonal < cols

    def row_ids(self) -> Tensor:
        """Global row indices."""
        return torch.arange(self.r0, self.r1, device=self.device) + self.row_start

    def col_ids(self) -> Tensor:
        """Global column indices."""
        return torch.arange(self.c0, self.c1, device=self.device) + self.col_start

    def on_diagonal(self) -> Tensor | None:
        """Bool tile of the pairs with equal global indices; None if there are none."""
        if not self.meets_diagonal:
            return None
        return self.row_ids()[:, None] == self.col_ids()[None, :]

    def off_diagonal(self) -> Tensor | None:
        """Complement of `on_diagonal`; None stands for the whole tile."""
        hit = self.on_diagonal()
        return None if hit is None else ~hit


class Spec:
    """Base of all specs; the neutral element: every pair counts, no weight, no bias."""

    kind: ClassVar[str] = "all"
    mask_only: ClassVar[bool] = False

    def atoms(self) -> tuple["Spec", ...]:
        """Members of the conjunction."""
        return (self,)

    def side_data(self) -> dict[str, Tensor]:
        """Side tensors by name."""
        return {name: v for name, v in self._fields().items() if isinstance(v, Tensor)}

    def static(self) -> dict[str, Any]:
        """Numbers, strings and bools by name."""
        plain = bool, int, float, str
        return {name: v for name, v in self._fields().items() if isinstance(v, plain)}

    def _fields(self) -> dict[str, Any]:
        if not dataclasses.is_dataclass(self):
            return {}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        """Mask of this atom given the positives of the whole spec; None = every pair counts."""
        return None

    def _positive(self, tile: Tile) -> Tensor | None:
        """Bool tile of the positives this atom marks; None = none in this tile."""
        return None

    def _omega(self, tile: Tile, dtype: torch.dtype) -> Tensor | None:
        """Omega of this atom in this tile; None = 0."""
        return None

    def _beta(self, tile: Tile, positive: Tensor | None) -> Tensor | None:
        """Beta of this atom in this tile (broadcastable); None = 0."""
        return None

    def positive(self, tile: Tile) -> Tensor | None:
        """(R, C) bool: the positive pairs of the tile; None = none."""
        return _fold([a._positive(tile) for a in self.atoms()], torch.logical_or)

    def mask(self, tile: Tile, side: Side = "rows") -> Tensor | None:
        """Bool, broadcastable to (R, C): pairs that enter the denominators; None = all."""
        positive = self.positive(tile) if self.needs_positive else None
        masks = [a._mask(tile, side, positive) for a in self.atoms()]
        return _fold(masks, torch.logical_and)

    def omega(self, tile: Tile, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """Omega, broadcastable to (R, C); None = 0."""
        weights = []
        for atom in self.atoms():
            weight = atom._omega(tile, dtype)
            if weight is not None and getattr(atom, "masked", False):
                mask = self.mask(tile)
                weight = weight if mask is None else weight * mask
            weights.append(weight)
        return _fold(weights, torch.add)

    def beta(self, tile: Tile) -> Tensor | None:
        """Beta, broadcastable to (R, C); None = 0."""
        positive = self.positive(tile) if self.has("bias") else None
        return _fold([a._beta(tile, positive) for a in self.atoms()], torch.add)

    def has(self, *kinds: str) -> bool:
        """Whether one of the atoms (also inside ``|``) is of one of these kinds."""
        inner = [p for a in self.atoms() for p in (a.parts if isinstance(a, Or) else (a,))]
        return any(p.kind in kinds or (isinstance(p, And) and p.has(*kinds)) for p in inner)

    @property
    def needs_positive(self) -> bool:
        """Whether a mask depends on which pairs are positive."""
        return self.has("exclude_positive", "only_positive", "exclude", "threshold")

    def check(self, num_rows: int, num_cols: int) -> None:
        """Raise ValueError if a side tensor does not fit N queries and M keys."""
        for atom in self.atoms():
            members = atom.parts if isinstance(atom, Or) else ()
            for member in members:
                member.check(num_rows, num_cols)
            for name, value in atom.side_data().items():
                want = num_rows if SIDES[name] == "q" else num_cols
                if value.shape[0] != want:
                    raise ValueError(
                        f"{type(atom).__name__}.{name} has {value.shape[0]} entries, expected "
                        f"{want} for {num_rows} queries and {num_cols} keys"
                    )

    def prepare(self, shift: int | None = None) -> "Spec":
        """The same spec with derived side data filled in (Labels.count), tensors detached.

        Args:
            shift: row_start - col_start, where the query itself is to be found among the keys;
                None: every query is among them, under the same label.
        """
        return self

    def __and__(self, other: "Spec") -> "Spec":
        atoms = tuple(a for a in self.atoms() + other.atoms() if a.kind != "all")
        return And(atoms) if len(atoms) > 1 else (atoms[0] if atoms else All())

    def __or__(self, other: "Spec") -> "Spec":
        return Or((self, other))


def _fold(values: list[Tensor | None], combine: Any) -> Tensor | None:
    out: Tensor | None = None
    for value in values:
        if value is not None:
            out = value if out is None else combine(out, value)
    return out


@dataclass(frozen=True, eq=False)
class All(Spec):
    """Every pair counts; no positives."""


@dataclass(frozen=True, eq=False)
class And(Spec):
    """Conjunction, made by ``a & b``."""

    parts: tuple[Spec, ...]
    kind: ClassVar[str] = "and"

    def atoms(self) -> tuple[Spec, ...]:
        """Members of the conjunction."""
        return self.parts

    def prepare(self, shift: int | None = None) -> Spec:
        """Prepare every member."""
        return And(tuple(p.prepare(shift) for p in self.parts))


@dataclass(frozen=True, eq=False)
class Or(Spec):
    """Union of masks, made by ``a | b``; both sides must be mask-only.

    Raises:
        ValueError: if a side carries weights or a bias (join those with ``&`` outside).
    """

    parts: tuple[Spec, ...]
    kind: ClassVar[str] = "or"

    def __post_init__(self) -> None:
        for part in self.parts:
            for atom in part.atoms():
                if not (atom.mask_only or isinstance(atom, Or)):
                    raise ValueError(
                        f"'|' unites masks; {type(atom).__name__} carries weights: use (a | b) & w"
                    )

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        united: Tensor | None = None
        for part in self.parts:
            mask = _fold([a._mask(tile, side, positive) for a in part.atoms()], torch.logical_and)
            if mask is None:
                return None
            united = mask if united is None else united | mask
        return united

    def prepare(self, shift: int | None = None) -> Spec:
        """Prepare every member."""
        return Or(tuple(p.prepare(shift) for p in self.parts))


def inner(u: Tensor, v: Tensor, tile: Tile) -> Tensor:
    """(R, C) inner products of side features in a tile."""
    return u[tile.r0 : tile.r1] @ v[tile.c0 : tile.c1].T


# --- masks alone: which pairs enter the denominators ----------------------------------------------


@dataclass(frozen=True, eq=False)
class ExcludeSelf(Spec):
    """The pair with equal global indices does not count (keys are the queries)."""

    kind: ClassVar[str] = "exclude_self"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        return tile.off_diagonal()


@dataclass(frozen=True, eq=False)
class ExcludePositive(Spec):
    """Only negatives enter the denominators (DCL, debiased losses)."""

    kind: ClassVar[str] = "exclude_positive"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        return None if positive is None else ~positive


@dataclass(frozen=True, eq=False)
class OnlyPositive(Spec):
    """Only positives count (softplus over positives, SupCon "in")."""

    kind: ClassVar[str] = "only_positive"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        if positive is None:
            return torch.zeros(1, 1, dtype=torch.bool, device=tile.device)
        return positive


@dataclass(frozen=True, eq=False)
class Exclude(Spec):
    """Pairs with equal ids do not count: duplicate captions, same document, same label.

    Args:
        query: (N,) int64 ids. key: (M,) int64 ids.
        second: (N,) further id per query that excludes as well.
        keep_positive: a positive of the spec counts even if its ids are equal.
    """

    query: Tensor
    key: Tensor
    second: Tensor | None = None
    keep_positive: bool = True
    kind: ClassVar[str] = "exclude"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        key = self.key[None, tile.c0 : tile.c1]
        keep = self.query[tile.r0 : tile.r1, None] != key
        if self.second is not None:
            keep &= self.second[tile.r0 : tile.r1, None] != key
        return keep | positive if self.keep_positive and positive is not None else keep


@dataclass(frozen=True, eq=False)
class Valid(Spec):
    """Rows and columns that count at all: padding, empty queue slots. (N,) / (M,) bool."""

    query: Tensor | None = None
    key: Tensor | None = None
    kind: ClassVar[str] = "valid"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        rows = None if self.query is None else self.query[tile.r0 : tile.r1, None]
        cols = None if self.key is None else self.key[None, tile.c0 : tile.c1]
        return cols if rows is None else (rows if cols is None else rows & cols)


@dataclass(frozen=True, eq=False)
class Threshold(Spec):
    """Guided mask: pairs that a guide finds too similar do not count (GIST, margins).

    Args:
        u: (N, r) guide features of the queries. v: (M, r) of the keys. Detached.
        thr: (N,) a pair counts for row i if <u_i, v_j> <= thr_i.
        thr_columns: (M,) a pair counts for column j if <u_i, v_j> <= it; None = no column mask.
        keep_positive: positives count whatever the guide says.
    """

    u: Tensor
    v: Tensor
    thr: Tensor
    thr_columns: Tensor | None = None
    keep_positive: bool = True
    kind: ClassVar[str] = "threshold"
    mask_only: ClassVar[bool] = True

    def _mask(self, tile: Tile, side: Side, positive: Tensor | None) -> Tensor | None:
        if side == "rows":
            bound = self.thr[tile.r0 : tile.r1, None]
        elif self.thr_columns is None:
            return None
        else:
            bound = self.thr_columns[None, tile.c0 : tile.c1]
        keep = inner(self.u, self.v, tile) <= bound
        return keep | positive if self.keep_positive and positive is not None else keep

    def prepare(self, shift: int | None = None) -> Spec:
        """Derived side data filled in, tensors detached."""
        columns = None if self.thr_columns is None else self.thr_columns.detach()
        parts = self.u.detach(), self.v.detach(), self.thr.detach()
        return Threshold(*parts, columns, self.keep_positive)
