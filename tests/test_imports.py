"""Importing common or a project's config costs nothing; import directions hold."""

import subprocess
import sys

import pytest

from common.config import ROOT
from common.registry import list_projects

HEAVY = ("torch", "lightning", "transformers", "numpy", "wandb", "matplotlib")


@pytest.mark.parametrize(
    "module",
    ["common", "common.cli", "common.registry", *[f"projects.{p}" for p in list_projects()]],
)
def test_import_is_light(module):
    program = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_common_names_no_project():
    for path in (ROOT / "common").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from projects" not in text, path
