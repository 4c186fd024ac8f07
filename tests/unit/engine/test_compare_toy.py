"""`compare` from the command line, with the toy project: processes, baselines, reuse."""

import json

import pytest

from common.config import ROOT
from tests.toy.command import Command


def compare(folder, *words):
    command = Command(folder / "printed", "compare", "toy", f"runs_dir={folder}", *words)
    assert command.ends(280) == 0, command.errors
    return command.printed


@pytest.mark.slow
def test_arms_and_baselines_run_once(tmp_path):
    done = compare(tmp_path, "--seeds", "7,", "--jobs", "2")
    assert "| *constant* | 0.1000 |" in done
    assert "| large > constant and large > small |" in done
    assert "over seeds 7." in done
    runs = sorted(tmp_path.glob("toy/smoke/*"))
    names = [run.name.split("-seed")[0] for run in runs]
    assert names == ["compare-baseline-constant", "compare-large", "compare-small"]
    assert json.loads((runs[0] / "meta.json").read_text())["baseline"] == "constant"
    assert not (ROOT / "results/toy.json").exists()  # seeds of its own, and overrides

    stamps = [(run / "meta.json").stat().st_mtime_ns for run in runs]
    plan = compare(tmp_path, "--seeds", "7,", "--plan")
    assert "3 runs, 0 missing" in plan
    assert [(run / "meta.json").stat().st_mtime_ns for run in runs] == stamps
