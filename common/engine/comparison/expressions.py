"""Expressions over the metric of arms: sums, means over a factor, spreads over it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Number:
    """A constant, in units of the metric."""

    value: float


@dataclass(frozen=True)
class Arm:
    """The metric of an arm or baseline."""

    name: str


@dataclass(frozen=True)
class Mean:
    """Mean of several values; of a factor's arms if it was written as a pattern."""

    values: "tuple[Node, ...]"


@dataclass(frozen=True)
class Spread:
    """Largest minus smallest of several values."""

    values: "tuple[Node, ...]"


@dataclass(frozen=True)
class Sum:
    """Weighted sum."""

    terms: "tuple[tuple[float, Node], ...]"


Node = Number | Arm | Mean | Spread | Sum


@dataclass(frozen=True)
class Part:
    """One side against another.

    Attributes:
        left: what is claimed to be better (or less).
        right: what it is compared with.
        sign: ``>`` or ``<`` as written.
        text: of both sides, as written.
    """

    left: Node
    right: Node
    sign: str
    text: tuple[str, str]

    @property
    def has_spread(self) -> bool:
        """Whether a spread is compared, which has a direction of its own."""
        return _has_spread(self.left) or _has_spread(self.right)


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """Value of an expression; numbers or equally long arrays, one number per arm or sample.

    >>> evaluate(Sum(((2.0, Arm("a")), (-1.0, Number(0.5)))), {"a": 1.0})
    1.5
    >>> float(evaluate(Spread((Arm("a"), Arm("b"))), {"a": 1.0, "b": 4.0}))
    3.0
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Arm):
        return values[node.name]
    if isinstance(node, Sum):
        return sum(weight * evaluate(term, values) for weight, term in node.terms)
    found = [evaluate(value, values) for value in node.values]
    if isinstance(node, Mean):
        return sum(found) / len(found)
    return np.max(found, axis=0) - np.min(found, axis=0)


def arms_of(*nodes: Node) -> list[str]:
    """Names in expressions, each once, in order."""
    found: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, Arm):
            found[node.name] = None
        elif isinstance(node, Sum):
            found |= dict.fromkeys(arms_of(*(term for _, term in node.terms)))
        elif isinstance(node, Mean | Spread):
            found |= dict.fromkeys(arms_of(*node.values))
    return list(found)


def favoured(node: Node, weight: float = 1.0) -> list[str]:
    """Arms that enter an expression with a positive weight: on the left side, the method's.

    >>> favoured(Sum(((1.0, Arm("both")), (-1.0, Arm("raw")))))
    ['both']
    """
    if isinstance(node, Arm):
        return [node.name] if weight > 0 else []
    if isinstance(node, Sum):
        inside = [(weight * w, term) for w, term in node.terms]
    elif isinstance(node, Mean | Spread):
        inside = [(weight, value) for value in node.values]
    else:
        return []
    return list(dict.fromkeys(name for w, term in inside for name in favoured(term, w)))


def _has_spread(node: Node) -> bool:
    if isinstance(node, Sum):
        return any(_has_spread(term) for _, term in node.terms)
    return isinstance(node, Spread) or (
        isinstance(node, Mean) and any(_has_spread(value) for value in node.values)
    )
