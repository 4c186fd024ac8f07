"""Generated documents are up to date; public losses and project modules name their source."""

import inspect
import re
import subprocess
import sys

import pytest

import common.losses
from common.config import ROOT
from common.registry import list_projects


def test_generated_tables_are_up_to_date():
    script = str(ROOT / "scripts/make_tables.py")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", [n for n in common.losses.__all__ if n.endswith("Loss") and n != "LossOutput"]
)
def test_every_loss_names_its_source(name):
    doc = inspect.getdoc(getattr(common.losses, name)) or ""
    assert "Source:" in doc, name
    assert "Distributed:" in doc, name


@pytest.mark.parametrize("slug", list_projects())
def test_project_module_names_its_source(slug):
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "projects" / slug).glob("*.py"))
    assert re.search(r"Source: .*\d{4}", text)


def test_readme_names_only_existing_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    used = set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert used
    assert used <= targets
