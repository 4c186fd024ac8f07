"""`compare` from the command line, with the toy project: processes, baselines, reuse."""

import json
import subprocess
import sys

import pytest

from common.config import ROOT


def compare(folder, *words):
    command = [sys.executable, "-m", "tests.toy", "compare", "toy", f"runs_dir={folder}", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


@pytest.mark.slow
def test_arms_and_baselines_run_once(tmp_path):
    done = compare(tmp_path, "--seeds", "7,", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "| *constant* | 0.1000 |" in done.stdout
    assert "**large > constant and small > constant:" in done.stdout
    assert "over seeds [7]" in done.stdout
    runs = sorted(tmp_path.glob("toy/smoke/*"))
    names = [run.name.split("-seed")[0] for run in runs]
    assert names == ["compare-baseline-constant", "compare-large", "compare-small"]
    assert json.loads((runs[0] / "meta.json").read_text())["baseline"] == "constant"
    assert not (ROOT / "results/toy.json").exists()  # seeds of its own, and overrides

    stamps = [(run / "meta.json").stat().st_mtime_ns for run in runs]
    plan = compare(tmp_path, "--seeds", "7,", "--plan")
    assert "3 runs, 0 missing" in plan.stdout, plan.stderr
    assert [(run / "meta.json").stat().st_mtime_ns for run in runs] == stamps
