"""Schema of ``configs/<slug>/sweep.yaml``: what is varied, and what is best."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from common.config import CONFIG_DIR, UserError, load
from common.engine.comparison.schema import Direction, from_mapping, read_yaml
from common.engine.comparison.spec import choose_arms, read_comparisons
from common.registry import config_class


@dataclass
class Sweep:
    """Schema of sweep.yaml."""

    base: str = "mini"  # config that is varied
    metric: str = "???"  # key of metrics.json; of the development part, never of the test set
    direction: Direction = "max"
    seed: int = 100  # of every run; not one of the verdict's
    shared: dict[str, Any] = field(default_factory=dict)  # overrides of every trial
    space: dict[str, Any] = field(default_factory=dict)  # lists of values to try, by config key
    arms: list[str] = field(default_factory=list)  # of compare.yaml, each with the same points
    own: dict[str, dict[str, Any]] = field(default_factory=dict)  # the same beyond space, by arm

    def __post_init__(self) -> None:
        if not self.space:
            raise ValueError("space is empty: name at least one setting")
        if unknown := sorted(set(self.own) - set(self.arms)):
            raise ValueError(f"own names {', '.join(unknown)}, which arms does not list")
        for key, values in self.axes():
            if not isinstance(values, list) or not values:
                raise ValueError(f"{key}: list the values to try, such as {key}: [1.0, 2.0]")

    def axes(self) -> list[tuple[str, list[Any]]]:
        """What is varied with its values; a setting may be that of several arms."""
        own = (pair for space in self.own.values() for pair in space.items())
        return [*self.space.items(), *own]

    def of(self, arm: str) -> "Sweep":
        """The sweep of one arm: the common space with what only this arm varies."""
        return replace(self, space={**self.space, **self.own.get(arm, {})}, own={})

    def grid(self) -> list[dict[str, Any]]:
        """All points of the grid, in the order of the file."""
        return [
            dict(zip(self.space, point, strict=True)) for point in product(*self.space.values())
        ]


def read_sweep(project: str, overrides: Sequence[str] = ()) -> Sweep:
    """The project's sweep, with settings that its base config has.

    Args:
        project: slug.
        overrides: of every trial, from the command line.

    Raises:
        UserError: the file is missing or does not fit the schema, or a setting that the config
            lacks or would refuse.
    """
    path, where = CONFIG_DIR / project / "sweep.yaml", f"configs/{project}/sweep.yaml"
    if not path.is_file():
        raise UserError(f"no {where}; docs/sweeps.md shows how to write one")
    sweep: Sweep = from_mapping(where, Sweep, read_yaml(where, path))
    for key, values in sweep.axes():
        for value in values:
            words = [*overrides, *words_of(sweep.shared), *words_of({key: value})]
            load(config_class(project), project, sweep.base, words)
    return sweep


def arms_of(project: str, sweep: Sweep, asked: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Overrides by arm; one without a name if neither file nor command names any.

    Raises:
        UserError: compare.yaml has no such arm.
    """
    names = list(asked) or sweep.arms
    if not names:
        return {"": {}}
    specs = read_comparisons(project)
    arms: dict[str, Mapping[str, Any]] = {}
    for spec, chosen in zip(specs, choose_arms(specs, names), strict=True):
        arms |= {name: spec.arms[name] for name in chosen if name not in arms}
    return arms


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """Overrides as the command line has them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
