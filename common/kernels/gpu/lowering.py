"""Lowering of a pair spec to a *program*: a compile-time string and a tuple of operands.

Example: ``Diagonal() & ExcludeSelf()`` becomes ``"and,1,2;diagonal,0;exclude_self"`` with the
operand 1.0. Node 0 is the conjunction of the atoms; arguments are node numbers (``and``, ``or``),
flags and widths, or positions in the tuple of operands (-1 = absent): side tensors, and the numbers
of the spec. The kernels walk the string while they are compiled (``kernel_tiles``), so one kernel
source serves every spec and a tile pays only for its own terms. A weight, a factor or a batch size
is no part of the string: another value compiles nothing. This module does not import Triton.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..specs.base import SIDES, All, And, Or, Spec

_MASKS = ("exclude_self", "exclude_positive", "only_positive", "exclude", "valid", "threshold")
_FEATURES = ("lowrank", "threshold")
_SINGLE = ("diagonal", "index", "partner")
_MARKS = (*_SINGLE, "block", "labels")
_WEIGHTED = {*_MARKS, "uniform", "lowrank"}
Side = Tensor | float | int


class Program(NamedTuple):
    """What the kernels need to know of a spec.

    Attributes:
        code: the node list, a compile-time constant.
        sides: side tensors and numbers in the order the nodes refer to.
        axes: of each of them "q" (indexed by query row), "k" (by key column), or "" (a number).
        masked: a mask atom is present. two_masks: the column mask differs from the row mask.
        weighted: omega is not 0 everywhere. single_weights: it is on single pairs of a row alone
            (Diagonal, Index, Partner). biased: beta is not 0 everywhere.
        features: a tile computes further inner products (low-rank weights, thresholds).
        halvable: mask and omega are symmetric and the diagonal is left out (NT-Xent).
    """

    code: str
    sides: tuple[Side, ...]
    axes: tuple[str, ...]
    masked: bool
    two_masks: bool
    weighted: bool
    single_weights: bool
    biased: bool
    features: bool
    halvable: bool

    @property
    def has_tensors(self) -> bool:
        """Whether the nodes refer to side tensors."""
        return any(self.axes)

    def rows(self, start: int, stop: int) -> tuple[Side, ...]:
        """The operands for the row chunk start:stop."""
        return tuple(
            x[start:stop] if isinstance(x, Tensor) and axis == "q" else x
            for x, axis in zip(self.sides, self.axes, strict=True)
        )

    def columns(self, start: int) -> "Program":
        """The program for the columns from ``start`` on."""
        sides = tuple(
            x[start:] if isinstance(x, Tensor) and axis == "k" else x
            for x, axis in zip(self.sides, self.axes, strict=True)
        )
        return self._replace(sides=sides)


class _Lowering:
    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.sides: list[Side] = []
        self.axes: list[str] = []

    def conjunction(self, atoms: tuple[Spec, ...]) -> int:
        node = self._reserve()
        self.nodes[node] = ",".join(["and", *(str(self.atom(a)) for a in atoms)])
        return node

    def atom(self, spec: Spec) -> int:
        if isinstance(spec, And):
            return self.conjunction(spec.atoms())
        node = self._reserve()
        if isinstance(spec, Or):
            parts = [str(self.conjunction(part.atoms())) for part in spec.parts]
            self.nodes[node] = ",".join(["or", *parts])
            return node
        fields = [_text(value) for value in self._fields(spec)]
        self.nodes[node] = ",".join([spec.kind, *fields])
        return node

    def _reserve(self) -> int:
        self.nodes.append("")
        return len(self.nodes) - 1

    def _slot(self, name: str, value: Tensor | None) -> int:
        if value is None:
            return -1
        return self._operand(_kernel_tensor(name, value.detach()), SIDES[name])

    def _operand(self, value: Side, axis: str = "") -> int:
        self.sides.append(value)
        self.axes.append(axis)
        return len(self.sides) - 1

    def _fields(self, spec: Spec) -> list[Any]:
        static = spec.static()
        side = spec.side_data()

        def slots(*names: str) -> list[int]:
            return [self._slot(name, side.get(name)) for name in names]

        def number(value: float) -> int:
            return self._operand(float(value))

        width = side["u"].shape[1] if "u" in side else 0
        match spec.kind:
            case "diagonal" | "uniform":
                return [number(static["weight"])]
            case "index":
                return [*slots("pos"), number(static["weight"])]
            case "partner":
                return [self._operand(int(static["half"])), number(1.0)]
            case "block":
                return [static["size"], number(1.0 / static["size"])]
            case "labels":
                count = ("count",) if static["average"] else ()
                return [*slots("query", "key"), *(slots(*count) or [-1]), static["exclude_self"]]
            case "lowrank":
                mode, factor = static["mode"], static["factor"]
                shift = 0.0 if mode == "softmax" else static["shift"]
                numbers = [mode, number(factor), number(shift), static["masked"], width]
                return [*slots("u", "v", "row_shift"), *numbers]
            case "exclude":
                return [static["keep_positive"], *slots("query", "key", "second")]
            case "valid":
                return slots("query", "key")
            case "threshold":
                return [static["keep_positive"], *slots("u", "v", "thr", "thr_columns"), width]
            case "bias":
                numbers = [number(static["factor"]), number(static["positive_value"])]
                return [*numbers, *slots("row", "column", "u", "v"), width]
            case "all" | "exclude_self" | "exclude_positive" | "only_positive":
                return []
        raise NotImplementedError(f"the Triton kernels do not know the spec kind {spec.kind!r}")


def lower(spec: Spec) -> Program:
    """Lower a prepared spec (see `Spec.prepare`).

    Args:
        spec: any spec; side tensors on the device of the kernels.

    Returns:
        The program; its tensors are detached copies in kernel dtypes where the dtype differs.

    Raises:
        NotImplementedError: for a spec kind that the kernels do not know.
    """
    lowering = _Lowering()
    atoms = tuple(a for a in spec.prepare().atoms() if not isinstance(a, All))
    lowering.conjunction(atoms)
    self_labels = any(a.kind == "labels" and a.static()["exclude_self"] for a in atoms)
    kinds = {a.kind for a in atoms}
    bias_features = any(a.kind == "bias" and "u" in a.side_data() for a in atoms)
    return Program(
        code=";".join(lowering.nodes),
        sides=tuple(lowering.sides),
        axes=tuple(lowering.axes),
        masked=self_labels or spec.has(*_MASKS),
        two_masks=spec.has("threshold"),
        weighted=bool(kinds & _WEIGHTED),
        single_weights=bool(kinds & _WEIGHTED) and kinds & _WEIGHTED <= set(_SINGLE),
        biased="bias" in kinds,
        features=bias_features or spec.has(*_FEATURES),
        halvable=_halvable(atoms),
    )


def is_bounded(spec: Spec) -> bool:
    """Whether a large logit is among the counted pairs of a row in any realistic batch.

    A fixed shift then does not underflow (no biases, thresholds or positives-only masks).
    """
    return not spec.has("bias", "threshold", "only_positive")


def one_positive(spec: Spec) -> bool:
    """Whether exactly one atom marks positives, at most one per row (Diagonal, Index, Partner)."""
    marks = [a.kind for a in spec.atoms() if a.kind in _MARKS]
    return len(marks) == 1 and marks[0] in _SINGLE


def many_positives(spec: Spec) -> bool:
    """Whether a row may have several positives."""
    return spec.has(*_MARKS) and not one_positive(spec)


def _halvable(atoms: tuple[Spec, ...]) -> bool:
    """Whether pairs (i, j) and (j, i) always have equal masks and weights, and (i, i) none.

    Holds only if the queries are the keys, which the caller vouches for (``Problem.half``).
    """
    symmetric = {"partner", "labels", "exclude_self", "exclude_positive", "exclude"}
    no_self = all(a.static()["exclude_self"] for a in atoms if a.kind == "labels")
    two_ids = any("second" in a.side_data() for a in atoms)
    kinds = {a.kind for a in atoms}
    leaves_self = "exclude_self" in kinds or "labels" in kinds
    return kinds <= symmetric and no_self and leaves_self and not two_ids


def _kernel_tensor(name: str, value: Tensor) -> Tensor:
    """Contiguous, and in the dtype that the kernels expect: fp32, int32 positions, uint8 flags."""
    if name == "pos":
        value = value.to(torch.int32)
    elif value.dtype == torch.bool:
        value = value.to(torch.uint8)
    elif value.dtype.is_floating_point:
        value = value.to(torch.float32)
    return value.contiguous()


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
