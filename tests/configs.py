"""Configs in tests: most build one or more, so what is common to them is merged once a process."""

import pickle
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from unittest.mock import patch

from common import config
from common.config import ExperimentConfig

C = TypeVar("C", bound=ExperimentConfig)
C_co = TypeVar("C_co", bound=ExperimentConfig, covariant=True)


def load(schema: type[C], project: str, name: str, overrides: Sequence[str] = ()) -> C:
    """As `common.config.load`; the caller may change what it gets."""
    return deepcopy(_loaded(schema, project, name, tuple(overrides)))


class Configs(Protocol[C_co]):
    """Overrides, and the name of a file -> a config."""

    def __call__(self, *overrides: str, name: str = "smoke") -> C_co: ...


def configs_of(schema: type[C], project: str) -> Configs[C]:
    """The configs of a project with overrides."""
    return lambda *overrides, name="smoke": load(schema, project, name, overrides)


@cache
def _loaded(schema: type[C], project: str, name: str, overrides: tuple[str, ...]) -> C:
    def from_pickle(schema: type[Any], path: Path) -> Any:
        return pickle.loads(_files(schema, path))

    with patch.object(config, "_files_over_schema", from_pickle):
        return config.load(schema, project, name, overrides)


_files_over_schema = config._files_over_schema


@cache
def _files(schema: type[Any], path: Path) -> bytes:
    return pickle.dumps(_files_over_schema(schema, path))
