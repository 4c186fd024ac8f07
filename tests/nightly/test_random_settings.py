"""Any valid change of a smoke config trains a step and is evaluated, or is refused in one sentence."""

import dataclasses
import datetime
import json
import random
import types
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from common.config import UserError, load
from common.engine.run import train
from common.ranges import Range, rules
from common.registry import config_class
from tests.contract.projects import PROJECTS

# sections of tasks, which a training doesn't read, and settings of the machine or of where files go
LEFT_OUT = ("runs_dir", "run_id", "resume", "tracking", "task", "seed")
MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "num_workers", "root", "compile")
CHANGES = 2  # of a config at a time
TIMES = (0.5, 2.0)  # of a number


def settings(schema: type, value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, type and value of every setting."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        own = getattr(value, field.name)
        if dataclasses.is_dataclass(own):
            yield from settings(type(own), own, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name], own


def others(hint: Any, value: Any) -> list[Any]:
    """Other values of a setting, inside its range."""
    found: list[Any] = []
    kinds = [hint, *typing.get_args(hint)]
    if typing.get_origin(hint) is typing.Annotated:
        kinds += typing.get_args(typing.get_args(hint)[0])
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            found += typing.get_args(kind)
    if types.NoneType in kinds:
        found.append(None)
    if isinstance(value, bool):
        found.append(not value)
    elif isinstance(value, int | float):
        kind = type(value)
        found += [kind(value * times) for times in TIMES]
        found += [kind(rule.low) for rule in rules(hint) if isinstance(rule, Range) and rule.low]
    return [other for other in found if other != value]


def changes(project: str) -> list[tuple[str, list[Any]]]:
    """Settings of a smoke config that can be changed, with other values."""
    schema = config_class(project)
    cfg = load(schema, project, "smoke", [])
    rows = [
        (key, others(hint, value))
        for key, hint, value in settings(schema, cfg)
        if key.split(".")[0] not in LEFT_OUT and key.split(".")[-1] not in MACHINE
    ]
    return [(key, values) for key, values in rows if values]


@pytest.mark.nightly
@pytest.mark.parametrize("project", PROJECTS)
def test_a_changed_config_trains_or_is_refused(project, tmp_path, pytestconfig):
    """Other draws every day; a message has the words that repeat one."""
    rng, known = random.Random(f"{project} {datetime.date.today()}"), changes(project)
    for number in range(pytestconfig.getoption("--kills")):
        chosen = rng.sample(known, CHANGES)
        words = [f"{key}={json.dumps(rng.choice(values))}" for key, values in chosen]
        words += ["trainer.max_steps=1", f"runs_dir={tmp_path}/{number}"]
        said = refusal(project, words)
        assert "\n" not in said, words


def refusal(project: str, words: list[str]) -> str:
    """The sentence that refuses a config; empty if it trains."""
    try:
        train(project, "smoke", words)
    except UserError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{project} with {' '.join(words)}: {error!r}") from error
    return ""


def test_other_values_of_a_setting_are_inside_its_range():
    known = dict(changes("dcl"))
    assert set(known["method.loss"]) == {"infonce", "dclw"}
    assert known["model.sync_batchnorm"] == [True]
    assert all(value > 0 for value in known["method.temperature"])
    assert "runs_dir" not in known
