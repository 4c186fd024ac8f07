"""Claims as they are judged: which arms, which metric, which direction, how much better."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from common.config import UserError, nearest
from common.engine.comparison.schema import (
    ClaimEntry,
    Comparison,
    Direction,
    NotTestable,
    from_mapping,
)
from common.registry import load_project

CLAIMS = "claims"  # module of a project whose functions `function:` names
# a function maps the arms' values, numbers or arrays of equal length, to left and right side, or
# to several such pairs by their text, all of which must hold
Sides = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Claim:
    """A claim with everything that its verdict depends on.

    Attributes:
        text: as printed, with metric and margin if it has its own.
        left: arms that are claimed to be better.
        right: arms, baselines and numbers that they are compared with.
        sides: makes the two sides of arms' values; None: left against each of right.
        metric: key of metrics.json.
        sign: -1 where less is better.
        maximise: whether more of the metric is better.
        threshold: that the difference must exceed, in the direction of the claim.
        options: metric, margin, at_least and and_in where the claim has its own, for the result.
        paper: what the paper reports, or "ours".
        appendix: judged where its arms have run, never counted.
        not_testable: why not.
        published: the paper's values of the two sides, or nothing.
        others: the same claim in further metrics; all must hold for its verdict.
    """

    text: str
    left: tuple[str, ...]
    right: tuple[str | float, ...]
    sides: Sides | None
    metric: str
    sign: float
    maximise: bool
    threshold: float
    options: Mapping[str, Any]
    paper: str
    appendix: bool
    not_testable: NotTestable | None
    published: tuple[float, ...] = ()
    others: "tuple[Claim, ...]" = ()

    @property
    def arms(self) -> list[str]:
        """Arms and baselines that it compares."""
        names = [*self.left, *(side for side in self.right if isinstance(side, str))]
        return list(dict.fromkeys(names))

    @property
    def needed(self) -> list[str]:
        """Arms and baselines that must have run for its verdict."""
        premise = [] if self.not_testable is None else self.not_testable.difference
        return list(dict.fromkeys([*self.arms, *premise]))

    def parts(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Left and right side of everything that must hold, by its text.

        Args:
            values: per arm a number, or an array with one number for each bootstrap sample.
        """
        if self.sides is None:
            (name,) = self.left
            return {
                _comparison(name, side, self.sign): (
                    values[name],
                    values[side] if isinstance(side, str) else side,
                )
                for side in self.right
            }
        pairs = self.sides(values)
        return pairs if isinstance(pairs, dict) else {self.text: pairs}


def claims_of(spec: Comparison) -> list[Claim]:
    """The claims of a comparison, those of the appendix last.

    Raises:
        UserError: a claim that does not fit the schema, has an arm that is unknown or, outside of
            the appendix, does not run by default.
    """
    counted = [_claim(spec, _entry(item)) for item in spec.claims]
    return counted + [_claim(spec, _entry(item), appendix=True) for item in spec.appendix]


def _entry(item: Any) -> ClaimEntry:
    if isinstance(item, str):
        raise UserError(f"claim '{item}': write {{left: ..., right: ...}}; see docs/compare.md")
    entry: ClaimEntry = from_mapping(f"claim {item}", ClaimEntry, item)
    return entry


def _claim(spec: Comparison, entry: ClaimEntry, appendix: bool = False) -> Claim:
    left, right = _names(entry.left), _names(entry.right)
    direction = entry.direction or spec.direction
    sign = 1.0 if direction == "max" else -1.0
    text = entry.text or " and ".join(_comparison(entry.left, side, sign) for side in right)
    _check_arms(spec, text, entry, [*left, *right], appendix)
    if entry.published:
        _check_published(text, entry, sign, len(right))
    options = dict[str, Any]()
    if entry.metric is not None:
        text, options["metric"] = f"{text} in {entry.metric}", entry.metric
    if entry.margin is not None:
        text, options["margin"] = f"{text} - {entry.margin:g}", entry.margin
    if entry.at_least:
        text, options["at_least"] = f"{text} by at least {entry.at_least:g}", entry.at_least
    others = tuple(
        _claim(
            spec, replace(entry, metric=metric, direction=cast(Direction, way), and_in={}), appendix
        )
        for metric, way in entry.and_in.items()
    )
    if others:
        text, options["and_in"] = f"{text} and in {', '.join(entry.and_in)}", dict(entry.and_in)
    allowed = spec.margin if entry.margin is None else entry.margin
    # a function's direction is that of what it returns, such as a spread, not of the metric
    better: Direction = spec.direction if entry.function and not entry.metric else direction
    return Claim(
        text,
        tuple(str(name) for name in left),
        tuple(right),
        _function(spec.project, entry.function) if entry.function else None,
        entry.metric or spec.metric,
        sign,
        better == "max",
        entry.at_least or -allowed,
        options,
        entry.paper,
        appendix,
        entry.not_testable,
        tuple(entry.published),
        others,
    )


def _comparison(left: str, right: str | float, sign: float) -> str:
    side = right if isinstance(right, str) else f"{right:g}"
    return f"{left} {'>' if sign > 0 else '<'} {side}"


def _names(side: Any) -> list[Any]:
    return list(side) if isinstance(side, list | tuple) else [side]


def _check_arms(
    spec: Comparison, text: str, entry: ClaimEntry, sides: list[Any], appendix: bool
) -> None:
    names = [*spec.arms, *spec.baselines]
    by_default = {*(spec.default_arms or spec.arms), *spec.baselines}
    premise = [] if entry.not_testable is None else entry.not_testable.difference
    for name in [*(side for side in sides if isinstance(side, str)), *premise]:
        if name not in names:
            raise UserError(f"claim '{text}': no arm '{name}'{nearest(name, names)}")
        if name not in by_default and not appendix:
            raise UserError(
                f"claim '{text}': arm '{name}' does not run by default; add it to "
                "default_arms, or move the claim to appendix"
            )


def _check_published(text: str, entry: ClaimEntry, sign: float, num_parts: int) -> None:
    left, right = entry.published
    if (num_parts > 1 and not entry.function) or entry.and_in:
        raise UserError(f"claim '{text}': published is of one difference in one metric")
    if right <= 0 or sign * (left - right) <= 0:
        raise UserError(
            f"claim '{text}': published values {left:g} and {right:g} do not show what it "
            "says, left against right in the direction of the claim"
        )


def _function(project: str, name: str) -> Sides:
    """A function of ``projects/<slug>/claims.py``.

    Raises:
        UserError: no such file, or nothing of that name in it.
    """
    package = load_project(project).__name__
    try:
        module = importlib.import_module(f"{package}.{CLAIMS}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"function '{name}': projects/{project}/claims.py does not exist"
        ) from error
    if not callable(getattr(module, name, None)):
        names = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"no function '{name}' in projects/{project}/claims.py{nearest(name, names)}"
        )
    sides: Sides = getattr(module, name)
    return sides
