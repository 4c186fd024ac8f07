"""The notebooks of examples/: their code runs, and their outputs are those of a clean run."""

import ast
import importlib
import json
import os
import re
import warnings
from pathlib import Path

import pytest

from common.config import ROOT
from tests.forked import forked, print_to

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MAX_BYTES = 600_000
# folders and warnings of the machine that ran it, and what an account is called
PRIVATE = re.compile(r"(?<![\w.])/(work|home|root|tmp|Users|usr|opt)/|Warning\b|WARNING|Traceback")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in cells_of(path) if cell["cell_type"] == "code"]


def code_of(path: Path) -> str:
    return "\n\n".join("".join(cell["source"]) for cell in code_cells(path))


def output_problems(cells: list[dict]) -> list[str]:
    """What a reader would stumble over in the outputs of code cells."""
    problems = []
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        problems.append("not run from top to bottom")
    for cell in cells:
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                problems.append(f"cell {cell['execution_count']} writes errors or warnings")
            texts = [output.get("text", []), output.get("data", {}).get("text/plain", [])]
            if PRIVATE.search("".join("".join(text) for text in texts)):
                problems.append(f"cell {cell['execution_count']} shows a path or a warning")
    return problems


def test_readme_lists_every_notebook():
    listed = re.findall(r"\]\((\w+\.ipynb)\)", (ROOT / "examples/README.md").read_text("utf-8"))
    assert sorted(listed) == [path.name for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 6


@every_notebook
def test_names_that_a_notebook_imports_exist(path):
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            for name in missing:  # a submodule
                importlib.import_module(f"{node.module}.{name}")


@every_notebook
def test_outputs_are_those_of_a_clean_run(path):
    assert output_problems(code_cells(path)) == []
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    "change",
    [
        {"execution_count": 3},
        {"outputs": [{"output_type": "stream", "name": "stderr", "text": ["slow"]}]},
        {"outputs": [{"output_type": "stream", "name": "stdout", "text": ["/home/x/runs"]}]},
        {"outputs": [{"output_type": "execute_result", "data": {"text/plain": ["UserWarning"]}}]},
        {"outputs": [{"output_type": "error", "ename": "KeyError"}]},
    ],
)
def test_outputs_of_an_unclean_run_are_noticed(change):
    clean = {"output_type": "stream", "name": "stdout", "text": ["recall 0.9, runs/x/home/"]}
    cell = {"execution_count": 1, "outputs": [clean]}
    assert output_problems([cell]) == []
    assert output_problems([cell | change])


def run_cells(path: Path, out: Path, errors: Path) -> None:
    print_to(out, errors)
    os.chdir(path.parent)  # where Jupyter runs it
    os.environ["MPLBACKEND"] = "Agg"
    warnings.simplefilter("ignore")
    exec(compile(code_of(path), path.name, "exec"), {"__name__": "__main__"})


NIGHTLY = {"retest_a_claim"}  # trains four networks, minutes: make faults


@pytest.mark.timeout(1300)
@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.nightly if p.stem in NIGHTLY else ()) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_notebook_runs(path, tmp_path):
    out, errors = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    process = forked(run_cells, path, out, errors)
    process.join(1200)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, errors.read_text(encoding="utf-8")[-3000:]
    assert out.read_text(encoding="utf-8").strip()
