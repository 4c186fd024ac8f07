"""Values of configs that a paper or its code gives."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from common.config import load, to_yaml
from common.registry import config_class


def assert_recipe(project: str, name: str, expected: Mapping[str, Any]) -> None:
    """A config has these values, by their dotted keys."""
    cfg = OmegaConf.create(to_yaml(load(config_class(project), project, name)))
    assert {key: OmegaConf.select(cfg, key) for key in expected} == expected
