"""Tasks and evaluations of all projects ask a workspace for what it has; most of them run for hours
before they do, and no quick test reaches all.
"""

import ast

import pytest

from common.config import ROOT
from common.engine.workspace import Workspace
from tests.contract.projects import PROJECTS


def asked_for(text: str) -> set[str]:
    """Attributes of what is named `workspace`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "workspace"
    }


@pytest.mark.parametrize("folder", ["common", *(f"projects/{name}" for name in PROJECTS)])
def test_what_is_asked_of_a_workspace_is_there(folder, tmp_path):
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
    asked = {name for text in texts if "import Workspace" in text for name in asked_for(text)}
    assert asked <= set(dir(Workspace(tmp_path)))
