"""The language of claims: arms compared, added, averaged over a factor, spread over it.

    claim   := part ("and" part)*
    part    := sum (">" | "<") sum ...            # a > b > c is a > b and b > c, judged one by one
    sum     := product (("+" | "-") product)*
    product := [number "*"] value
    value   := number | arm | factor | mean "(" sum, ... ")" | spread "(" sum, ... ")" | "(" sum ")"
    factor  := a name with "*", such as dcl@lr*   # mean of the arms that it matches

A value is the metric of an arm; ``>`` reads "is better than" by the claim's direction, ``<`` is for
what is better when it is less: metrics with ``direction: min``, and spreads. ``spread`` is the
largest minus the smallest; given one factor, over the arms that it matches.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NoReturn

from common.config import UserError, nearest
from common.engine.comparison.expressions import Arm, Mean, Node, Number, Part, Spread, Sum

NAME = re.compile(r"[A-Za-z_][\w@.-]*")
_TOKEN = re.compile(
    r"\s*(?:(?P<factor>[A-Za-z_][\w@.-]*\*[\w@.*-]*)|(?P<name>[A-Za-z_][\w@.]*)"
    r"|(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|(?P<sign>[-+*(),]|[<>]=?|.))"
)


def parse(text: str, arms: Iterable[str]) -> list[tuple[Part, ...]]:
    """Claims of a line: one for each neighbouring pair of a chain; a conjunction is one claim.

    Args:
        text: the line.
        arms: names of arms and baselines.

    Raises:
        UserError: it doesn't fit the grammar, or names an arm that doesn't exist.

    >>> [[part.text for part in claim] for claim in parse("a > b > c", "abc")]
    [[('a', 'b')], [('b', 'c')]]
    >>> [[part.text for part in claim] for claim in parse("a > b and a > c", "abc")]
    [[('a', 'b'), ('a', 'c')]]
    """
    reader = _Reader(text, list(arms))
    parts = reader.claim()
    return [tuple(parts)] if reader.conjunction else [(part,) for part in parts]


class _Reader:
    """Recursive descent over the tokens of one line."""

    def __init__(self, text: str, arms: Sequence[str]) -> None:
        self.text, self.arms = text, arms
        self.tokens = list(self._tokens())
        self.place, self.conjunction = 0, False
        self.factors: list[str] = []

    def _tokens(self) -> Iterable[tuple[str, str, int]]:
        """Kind, text and end of each token; names with a hyphen are known ones only."""
        hyphened = sorted((a for a in self.arms if "-" in a), key=len, reverse=True)
        position, end = 0, len(self.text.rstrip())
        while position < end:
            start = position + len(self.text[position:]) - len(self.text[position:].lstrip())
            known = next((a for a in hyphened if self._stands(a, start)), None)
            if known is not None:
                position = start + len(known)
                yield "name", known, position
                continue
            match = _TOKEN.match(self.text, position)
            assert match is not None
            position = match.end()
            kind = str(match.lastgroup)
            yield kind, match[kind], position

    def _stands(self, name: str, start: int) -> bool:
        after = self.text[start + len(name) : start + len(name) + 1]
        return self.text.startswith(name, start) and not re.match(r"[\w@.*-]", after)

    def claim(self) -> list[Part]:
        parts = self.chain()
        while self.take("and"):
            self.conjunction = True
            parts += self.chain()
        if self.place < len(self.tokens):
            self.fail("'and', '>' or the end")
        return parts

    def chain(self) -> list[Part]:
        self.factors = []
        sides, signs = [self.side()], []
        while self.peek() in (">", "<"):
            signs.append(self.next())
            sides.append(self.side())
        if not signs:
            self.fail("'arm > arm'")
        self._check_levels()
        return [
            Part(left, right, sign, (before, after))
            for (left, before), (right, after), sign in zip(sides, sides[1:], signs, strict=False)
        ]

    def side(self) -> tuple[Node, str]:
        start = self.tokens[self.place - 1][2] if self.place else 0
        node = self.sum()
        return node, self.text[start : self.tokens[self.place - 1][2]].strip()

    def sum(self) -> Node:
        weight = -1.0 if self.take("-") else 1.0
        terms = [self.product(weight)]
        while self.peek() in ("+", "-"):
            terms.append(self.product(1.0 if self.next() == "+" else -1.0))
        return terms[0][1] if len(terms) == 1 and terms[0][0] == 1.0 else Sum(tuple(terms))

    def product(self, weight: float) -> tuple[float, Node]:
        value = self.value()
        if isinstance(value, Number) and self.take("*"):
            return weight * value.value, self.value()
        return weight, value

    def value(self) -> Node:
        kind, token = (*self.tokens[self.place], "")[:2] if self.left() else ("end", "")
        if self.take("("):
            return self.closed(self.sum())
        if kind == "number":
            return Number(float(self.next()))
        if kind == "factor":
            return Mean(self.matching(self.next()))
        if kind != "name" or token == "and":
            self.fail("an arm, a number or '('")
        self.place += 1
        if token in ("mean", "spread") and self.take("("):
            return (Mean if token == "mean" else Spread)(self.arguments())
        if token not in self.arms:
            raise UserError(f"claim '{self.text}': no arm '{token}'{nearest(token, self.arms)}")
        return Arm(token)

    def arguments(self) -> tuple[Node, ...]:
        values = [self.sum()]
        while self.take(","):
            values.append(self.sum())
        self.closed(values[0])
        alone = values[0]
        return alone.values if len(values) == 1 and isinstance(alone, Mean) else tuple(values)

    def closed(self, node: Node) -> Node:
        if not self.take(")"):
            self.fail("')'")
        return node

    def matching(self, pattern: str) -> tuple[Node, ...]:
        found = [arm for arm in self.arms if fnmatchcase(arm, pattern)]
        if not found:
            raise UserError(
                f"claim '{self.text}': no arm fits '{pattern}'{nearest(pattern, self.arms)}"
            )
        self.factors.append(pattern)
        return tuple(Arm(arm) for arm in found)

    def _check_levels(self) -> None:
        """Both sides of a comparison have the same levels of a factor."""
        levels = {}
        for pattern in self.factors:
            form = re.compile(re.escape(pattern).replace(r"\*", "(.*)"))
            matches = [form.fullmatch(arm) for arm in self.arms]
            levels[pattern] = {m.groups() for m in matches if m is not None}
        for pattern, own in levels.items():
            missing = set().union(*levels.values()) - own
            if missing:
                named = ", ".join(sorted("/".join(level) for level in missing))
                raise UserError(f"claim '{self.text}': '{pattern}' has no level {named}")

    def left(self) -> bool:
        return self.place < len(self.tokens)

    def peek(self) -> str:
        return self.tokens[self.place][1] if self.left() else ""

    def next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1][1]

    def take(self, token: str) -> bool:
        found = self.peek() == token
        self.place += found
        return found

    def fail(self, expected: str) -> NoReturn:
        end = self.tokens[self.place - 1][2] if self.place else 0
        rest = self.text[end:].strip()
        where = f"at '{rest}'" if rest else "at its end"
        hint = "; write '>' with a margin" if self.peek() in (">=", "<=") else ""
        raise UserError(
            f"claim '{self.text}' is not of the form 'arm > arm': expected {expected} {where}{hint}"
        )
