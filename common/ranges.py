"""Ranges of config fields: declared in a field's type, read by one checker.

``lr: Positive = 1e-3`` says what a value may be; `problems` names every value that is something
else. The aliases cover most fields; ``Annotated[int, at_least(4)]`` is the general form. A bare
``int`` or ``float`` is for nothing: every numeric field of a config has a range, and floats are
finite.
"""

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1  # whole numbers beyond it fit in no tensor


@dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
        low: least value.
        high: largest value.
        open_low: whether `low` itself is out.
        open_high: whether `high` itself is out.
        infinite: whether infinity is a value.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the interval; nan lies in none.

        >>> above(0).holds(0), at_least(0).holds(0), between(0, 1).holds(float("nan"))
        (False, True, False)
        """
        if isinstance(value, int) and abs(value) > LARGEST:
            return False
        if not self.infinite and not math.isfinite(value):
            return False
        above_low = value > self.low if self.open_low else value >= self.low
        return above_low and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "be a number"
        if math.isinf(self.high):
            return f"be {'>' if self.open_low else '>='} {self.low}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"be in {left}{self.low}, {self.high}{right}"


@dataclass(frozen=True)
class Ascending:
    """A pair whose second number is not below the first."""

    def holds(self, value: Any) -> bool:
        """Whether it is one."""
        return bool(value[0] <= value[1])

    def __str__(self) -> str:
        return "be an increasing pair"


@dataclass(frozen=True)
class NotEmpty:
    """A list with at least one entry."""

    def holds(self, value: Any) -> bool:
        """Whether it is one."""
        return len(value) > 0

    def __str__(self) -> str:
        return "have at least one entry"


def at_least(low: float) -> Range:
    """[low, infinity)."""
    return Range(low)


def above(low: float, infinite: bool = False) -> Range:
    """(low, infinity), with infinity itself if asked."""
    return Range(low, open_low=True, infinite=infinite)


def between(low: float, high: float, ends: str = "[]") -> Range:
    """Low to high; `ends` says by brackets which of the two are in."""
    return Range(low, high, open_low=ends[0] == "(", open_high=ends[1] == ")")


ascending = Ascending()
not_empty = NotEmpty()

Count = Annotated[int, at_least(1)]  # 1, 2, ...
Whole = Annotated[int, at_least(0)]  # 0, 1, 2, ...
Seed = Annotated[int, between(0, 2**32 - 1)]  # what numpy takes
Real = Annotated[float, Range()]  # any finite number
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]
Probability = Annotated[float, between(0, 1)]  # [0, 1]
Share = Annotated[float, between(0, 1, "(]")]  # not nothing, perhaps all
Rate = Annotated[float, between(0, 1, "[)")]  # perhaps nothing, not all
Inner = Annotated[float, between(0, 1, "()")]  # neither nothing nor all
Degrees = Annotated[float, between(0, 180)]  # of a turn, both ways
Cosine = Annotated[float, between(-1, 1)]
Interval = Annotated[tuple[Share, Share], ascending]  # of shares, such as areas of crops

Counts = Annotated[list[Count], not_empty]
Probabilities = Annotated[list[Probability], not_empty]
NonNegatives = Annotated[list[NonNegative], not_empty]

Rule = Range | Ascending | NotEmpty


def problems(schema: type[Any], values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What is out of its range in a config, each as "<name> must ..., not <value>".

    Args:
        schema: a dataclass; sections are dataclasses in turn.
        values: plain containers in its shape; fields that are absent have not been set.
        prefix: of the names.
    """
    hints = get_type_hints(schema, include_extras=True)
    errors: list[str] = []
    for field in fields(schema):
        if field.name in values:
            errors += _walk(hints[field.name], values[field.name], f"{prefix}{field.name}")
    return errors


def rules(hint: Any) -> tuple[Rule, ...]:
    """The rules that a type names for the value itself, not for its entries."""
    if get_origin(hint) is Annotated:
        annotated = tuple(x for x in get_args(hint)[1:] if isinstance(x, Rule))
        return (*annotated, *rules(get_args(hint)[0]))
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(rule for part in get_args(hint) for rule in rules(part))
    return ()


def parts(hint: Any) -> Iterator[Any]:
    """The types of a value without its rules, and without None."""
    if get_origin(hint) is Annotated:
        yield from parts(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from parts(part)
    elif hint is not type(None):
        yield hint


def _walk(hint: Any, value: Any, name: str) -> list[str]:
    if value is None:
        return []
    for rule in rules(hint):
        if isinstance(rule, Range) and isinstance(value, bool | str):
            continue  # an alternative of another type
        if isinstance(rule, Range) and not rule.holds(value):
            finite = " and finite" if value in (math.inf, -math.inf) else ""
            return [f"{name} must {rule}{finite}, not {value}"]
    errors = [line for part in parts(hint) for line in _entries(part, value, name)]
    if not errors:
        errors = [
            f"{name} must {rule}, not {value}"
            for rule in rules(hint)
            if not isinstance(rule, Range) and not rule.holds(value)
        ]
    return errors


def _entries(part: Any, value: Any, name: str) -> list[str]:
    """Problems inside a container."""
    if is_dataclass(part) and isinstance(part, type):
        return problems(part, value, f"{name}.") if isinstance(value, Mapping) else []
    inner = get_args(part)
    if get_origin(part) is list and isinstance(value, list | tuple):
        return [line for x in value for line in _walk(inner[0], x, name)]
    if get_origin(part) is tuple and isinstance(value, list | tuple):
        pairs = zip(inner, value, strict=True)
        return [line for hint, x in pairs for line in _walk(hint, x, name)]
    if get_origin(part) is dict and isinstance(value, Mapping):
        return [line for key, x in value.items() for line in _walk(inner[1], x, f"{name}.{key}")]
    return []
