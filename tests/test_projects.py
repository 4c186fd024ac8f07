"""A project is three folders with the same name, and its card has the same headings."""

import importlib
import re
from dataclasses import fields, is_dataclass

import pytest

from common.config import ROOT
from common.registry import list_projects

HEADINGS = ["Paper", "Idea in three sentences", "Equations", "Run", "Results", "Deviations", "Data"]
PROJECTS = list(list_projects())


def folders(name: str) -> set[str]:
    return {p.name for p in (ROOT / name).iterdir() if p.is_dir() and p.name[0] not in "_."}


def test_the_three_folders_agree():
    assert PROJECTS
    assert folders("projects") == folders("configs") == folders("tests/projects") == set(PROJECTS)


@pytest.mark.parametrize("slug", PROJECTS)
def test_contract_and_card(slug):
    module = importlib.import_module(f"projects.{slug}")
    assert callable(module.build)
    assert callable(module.load)
    assert is_dataclass(module.Config)
    assert {"data", "optim", "trainer", "tracking", "seed"} <= {
        f.name for f in fields(module.Config)
    }
    card = (ROOT / "projects" / slug / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", card, re.M) == HEADINGS
    assert "<!-- results:begin -->" in card
    assert list((ROOT / "tests/projects" / slug).glob("test_*.py"))


@pytest.mark.parametrize("slug", PROJECTS)
def test_files_stay_small(slug):
    for path in (ROOT / "projects" / slug).glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_no_wandb_no_environment_no_argument_parsing_in_projects():
    banned = re.compile(
        r"import wandb|\bwandb\.|os\.environ|argparse|torch\.load|import projects\."
    )
    for path in (ROOT / "projects").rglob("*.py"):
        assert not banned.search(path.read_text(encoding="utf-8")), path
