"""Ranges of config fields: every numeric field has one, and every bad value of it is refused."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config import UserError, load
from common.ranges import (
    Count,
    Interval,
    NonNegative,
    Positive,
    Range,
    Real,
    above,
    at_least,
    between,
    not_empty,
    parts,
    problems,
    rules,
)
from common.registry import config_class, list_projects
from tests.contract.projects import project_param

Wrap = Any  # a function that puts a number where the field has it


def numbers(hint: Any, name: str, wrap: Wrap) -> Iterator[tuple[str, type, Any, Wrap]]:
    """Every place for a number in a type: name, int or float, its range, the way to a value."""
    own = [rule for rule in rules(hint) if isinstance(rule, Range)]
    for part in parts(hint):
        inner = get_args(part)
        if part in (int, float):
            yield name, part, own[0] if own else None, wrap
        elif get_origin(part) is list:
            yield from numbers(inner[0], name, lambda x, w=wrap: w([x]))
        elif get_origin(part) is dict:
            yield from numbers(inner[1], f"{name}.a", lambda x, w=wrap: w({"a": x}))
        elif get_origin(part) is tuple:
            for i, hint_i in enumerate(inner):  # None has no range, so only one place is looked at
                empty = [None] * len(inner)
                yield from numbers(
                    hint_i, name, lambda x, w=wrap, i=i, e=empty: w([*e[:i], x, *e[i + 1 :]])
                )
        elif is_dataclass(part):
            hints = get_type_hints(part, include_extras=True)
            for own_field in fields(part):
                yield from numbers(
                    hints[own_field.name],
                    f"{name}.{own_field.name}".lstrip("."),
                    lambda x, w=wrap, f=own_field.name: w({f: x}),
                )


def found(project: str) -> list[tuple[str, type, Any, Wrap]]:
    return list(numbers(config_class(project), "", lambda x: x))


def bad_values(kind: type, span: Range) -> st.SearchStrategy[Any]:
    """Numbers outside of an interval, drawn from its ends alone."""
    choices: list[st.SearchStrategy[Any]] = []
    if kind is int:
        if not math.isinf(span.low):
            choices.append(st.integers(max_value=int(span.low) - 1))
        choices.append(
            st.integers(min_value=2**63 if math.isinf(span.high) else int(span.high) + 1)
        )
        return st.one_of(choices)
    if not math.isinf(span.low):
        choices.append(
            st.floats(max_value=span.low, exclude_max=not span.open_low, allow_nan=False)
        )
    if not math.isinf(span.high):
        choices.append(
            st.floats(min_value=span.high, exclude_min=not span.open_high, allow_nan=False)
        )
    choices += [
        st.just(math.nan),
        *([] if span.infinite else [st.just(math.inf)]),
        st.just(-math.inf),
    ]
    return st.one_of(choices)


@pytest.mark.parametrize("project", list_projects())
def test_every_numeric_field_has_a_range(project):
    names = [name for name, _, _, _ in found(project)]
    assert {"optim.lr", "trainer.max_steps", "data.batch_size", "seed", "optim.betas"} <= {*names}
    assert [name for name, _, span, _ in found(project) if span is None] == []


@pytest.mark.parametrize("project", map(project_param, list_projects()))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_bad_value_of_every_field_is_named(project, data):
    schema = config_class(project)
    for name, kind, span, wrap in found(project):
        value = data.draw(bad_values(kind, span), label=name)
        said = problems(schema, wrap(value))
        assert len(said) == 1, (name, value, said)
        assert said[0].startswith(f"{name} must {span}"), said


@pytest.mark.parametrize("project", list_projects())
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_loading_a_config_reads_the_ranges(project, data):
    plain = [x for x in found(project) if x[3](0.5) == nested(x[0], 0.5) and ".a." not in x[0]]
    name, kind, span, _ = data.draw(st.sampled_from(plain))
    value = data.draw(bad_values(kind, span))
    text = {math.inf: ".inf", -math.inf: "-.inf"}.get(
        value, ".nan" if value != value else repr(value)
    )
    with pytest.raises(UserError) as error:
        load(config_class(project), project, "smoke", [f"{name}={text}"])
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def nested(name: str, value: Any) -> Any:
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


@dataclass
class Section:
    counts: Annotated[list[Count], not_empty] = field(default_factory=lambda: [1])
    scale: Interval = (0.1, 1.0)
    clip: Positive | None = None
    limit: Annotated[float, above(0, infinite=True)] = 1.0


@dataclass
class Schema:
    section: Section = field(default_factory=Section)
    sets: dict[str, Section] = field(default_factory=dict)
    shift: Real = 0.0
    weight: NonNegative = 0.0
    half: Annotated[float, between(0, 1, "[)")] = 0.0
    size: Annotated[int, at_least(4)] = 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"section": {"counts": [1, 0]}}, "section.counts must be >= 1, not 0"),
        ({"section": {"counts": []}}, "section.counts must have at least one entry, not []"),
        (
            {"section": {"scale": [0.5, 0.2]}},
            "section.scale must be an increasing pair, not [0.5, 0.2]",
        ),
        ({"section": {"scale": [0.0, 0.2]}}, "section.scale must be in (0, 1], not 0.0"),
        ({"section": {"clip": 0.0}}, "section.clip must be > 0, not 0.0"),
        ({"sets": {"a": {"clip": -1.0}}}, "sets.a.clip must be > 0, not -1.0"),
        ({"shift": math.inf}, "shift must be a number and finite, not inf"),
        ({"half": 1.0}, "half must be in [0, 1), not 1.0"),
        ({"size": 3}, "size must be >= 4, not 3"),
        ({"section": {"limit": math.nan}}, "section.limit must be > 0, not nan"),
    ],
)
def test_what_is_wrong_is_said(values, said):
    assert problems(Schema, values) == [said]


def test_what_lies_in_its_range_passes():
    good = {
        "section": {"counts": [1, 5], "scale": [0.2, 0.2], "clip": None, "limit": math.inf},
        "sets": {"a": {"clip": 0.5}},
        "shift": -1e30,
        "weight": 0,
        "half": 0.0,
        "size": 4,
    }
    assert problems(Schema, good) == []


@pytest.mark.parametrize("project", list_projects())
def test_rules_of_the_root_hold_in_every_project(project):
    for bad, word in (("run_id=../evil", "run_id"), ("trainer.max_steps=null", "max_steps")):
        with pytest.raises(UserError, match=word):
            load(config_class(project), project, "smoke", [bad])
