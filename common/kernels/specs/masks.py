"""Mask-only specs: which pairs enter the denominators. Imported through specs.py."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from common.kernels.specs.base import Side, Spec, Tile, inner


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
