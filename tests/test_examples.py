"""The notebooks of examples/ run from beginning to end, each in a process of its own."""

import json
import os
import warnings
from pathlib import Path

import pytest

from common.config import ROOT
from tests.forked import forked, print_to

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def test_there_is_one_of_each_modality():
    assert {p.stem for p in NOTEBOOKS} >= {
        "text",
        "images_and_texts",
        "retrieval",
        "recommendation",
        "speech",
        "lidar",
    }


def run_cells(path: Path, out: Path, errors: Path) -> None:
    print_to(out, errors)
    os.chdir(ROOT)
    warnings.simplefilter("ignore")
    exec(compile(code_of(path), path.name, "exec"), {"__name__": "__main__"})


SLOW = {"retrieval"}  # tens of seconds: make faults


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else ()) for p in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_notebook_runs(path, tmp_path):
    out, errors = tmp_path / "stdout.txt", tmp_path / "stderr.txt"
    process = forked(run_cells, path, out, errors)
    process.join(240)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, errors.read_text(encoding="utf-8")[-3000:]
    assert out.read_text(encoding="utf-8").strip()
