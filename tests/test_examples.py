"""The notebooks of examples/ run from beginning to end, each in a process of its own."""

import json
import multiprocessing as mp
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

from common.config import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def test_there_is_one_of_each_modality():
    assert {p.stem for p in NOTEBOOKS} >= {"text", "images_and_texts", "retrieval", "recommendation", "speech", "lidar"}  # fmt: skip


def run_cells(path: Path, printed: Path) -> None:
    """In a fork, which costs no imports; what is printed and a traceback go to a file."""
    with printed.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    exec(compile(code_of(path), path.name, "exec"), {"__name__": "__main__"})
    sys.stdout.flush()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path):
    start = "spawn" if torch.cuda.is_available() else "fork"
    process = mp.get_context(start).Process(target=run_cells, args=(path, tmp_path / "printed.txt"))
    process.start()
    process.join(240)
    if process.exitcode is None:
        process.kill()
    printed = (tmp_path / "printed.txt").read_text(encoding="utf-8")
    assert process.exitcode == 0, printed[-3000:]
    assert printed.strip()
