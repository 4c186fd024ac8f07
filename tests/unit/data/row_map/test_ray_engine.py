"""Two Ray workers leave the bytes of one process; without ray the remedy is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.config import ROOT, UserError
from common.data.row_map.mapper import RowMap, map_rows
from common.data.row_map.options import RowMapConfig

ROWS = [f"row {i}" for i in range(26)]
RAY = {"engine": "ray", "workers": 2, "cpus_per_worker": 0.5}


def build():
    """Draws per row; chunks finish out of order."""

    def function(rows, seeds):
        time.sleep(0.2 if rows[0] == "row 0" else 0.0)
        return [[r, int(s.rng(1).integers(1 << 30))] for r, s in zip(rows, seeds, strict=True)]

    return function


def refusing():
    raise UserError("there is no such model")


def step(make=build):
    return RowMap("draw", make, {}, 3, 4)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_without_ray_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'ray>=2\.40'.*`scale`"):
        map_rows(step(), ROWS, tmp_path, RowMapConfig(**RAY))
    map_rows(step(), ROWS, tmp_path)  # the twin: the same folder in this process
    map_rows(step(), ROWS, tmp_path, RowMapConfig(**RAY))  # and nothing is left to do


class DiesAtThree:
    """A display whose process dies when the third chunk has come back."""

    def __init__(self, name, total):
        self.count = 0

    def update(self, count, info=""):
        self.count += 1
        if self.count == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self):
        pass


def run_and_die(folder):
    map_rows(step(), ROWS, Path(folder), RowMapConfig(**RAY), DiesAtThree)


def test_two_workers_are_one_process_and_continue_after_a_kill(tmp_path):
    pytest.importorskip("ray", reason="ray is in the optional group `scale`")
    map_rows(step(), ROWS, tmp_path / "one")
    actual = map_rows(step(), ROWS, tmp_path / "two", RowMapConfig(**RAY))
    assert actual.computed == 26
    assert content(tmp_path / "two") == content(tmp_path / "one")
    program = f"from {__name__} import run_and_die; run_and_die({str(tmp_path / 'killed')!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT)  # a fork cannot use Ray again
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "killed").glob("part-*"))) == 3
    again = map_rows(step(), ROWS, tmp_path / "killed", RowMapConfig(**RAY))
    assert 0 < again.computed < 26
    assert content(tmp_path / "killed") == content(tmp_path / "one")
    for make, options, message in (
        (refusing, {}, "there is no such model"),
        (build, {"workers": 3, "gpus_per_worker": 1.0}, "3 workers of 1 GPU each do not fit"),
    ):
        with pytest.raises(UserError, match=message):
            map_rows(step(make), ROWS, tmp_path / message, RowMapConfig(**{**RAY, **options}))
