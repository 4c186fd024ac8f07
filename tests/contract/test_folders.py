"""A project is three folders with the same name; it reads no arguments and no environment."""

import importlib
import re
from dataclasses import fields, is_dataclass

import pytest

from common.config import ROOT
from tests.contract.projects import FAMILIES, PROJECTS


def folders(name: str) -> set[str]:
    return {p.name for p in (ROOT / name).iterdir() if p.is_dir() and p.name[0] not in "_."}


def test_the_three_folders_agree():
    assert len(PROJECTS) >= 41
    arenas = {f"arena_{path.parent.name}" for path in ROOT.glob("arena/*/__init__.py")}
    assert folders("projects") == folders("tests/projects") == set(PROJECTS)
    assert folders("configs") == set(PROJECTS) | arenas


def test_every_family_has_its_project():
    assert folders("common/families") <= FAMILIES.keys()
    assert set(FAMILIES.values()) <= set(PROJECTS)


@pytest.mark.parametrize("slug", PROJECTS)
def test_a_package_has_build_load_and_config(slug):
    module = importlib.import_module(f"projects.{slug}")
    assert callable(module.build)
    assert callable(module.load)
    assert is_dataclass(module.Config)
    assert {"data", "optim", "trainer", "tracking", "seed"} <= {
        f.name for f in fields(module.Config)
    }
    assert list((ROOT / "tests/projects" / slug).glob("test_*.py"))


def test_no_wandb_no_environment_no_argument_parsing_in_projects():
    banned = re.compile(
        r"import wandb|\bwandb\.|os\.environ|argparse|torch\.load|import projects\."
    )
    for path in (ROOT / "projects").rglob("*.py"):
        if path.name != "benchmark.py":  # a program of its own
            assert not banned.search(path.read_text(encoding="utf-8")), path
