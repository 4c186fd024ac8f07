"""The suite's own rules: CPU seconds against budgets, and one worker for the pool of processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import ROOT
from tests.cpu_seconds import (
    PROJECT_BUDGET,
    REFERENCE_SECONDS,
    SMOKE_BUDGET,
    folder_of,
    overdrawn,
    slowness,
    table,
)
from tests.schedule import (
    EVIDENCE,
    EVIDENCE_FILES,
    POOL,
    POOL_FIXTURES,
    group_of,
    long_ones_first,
    users_of_the_pool,
)


def test_a_project_over_its_budget_is_named_with_its_three_slowest():
    each = PROJECT_BUDGET / 10
    seconds = {f"tests/projects/x/test_a.py::test_{i}": each for i in range(9)}
    seconds["tests/projects/y/test_a.py::test_0"] = PROJECT_BUDGET - 0.1
    seconds["tests/unit/test_a.py::test_0"] = 10 * PROJECT_BUDGET
    assert overdrawn(seconds) == []
    seconds["tests/projects/x/test_b.py::test_most[1]"] = 1.5 * each
    (line,) = overdrawn(seconds)
    assert line.startswith(f"tests/projects/x: {10.5 * each:.1f} CPU s")
    assert f"test_b.py::test_most[1] {1.5 * each:.1f}" in line
    assert line.count("test_a.py") == 2
    assert overdrawn(seconds, slow=1.1) == []


def test_a_smoke_has_a_budget_of_its_own():
    seconds = {"tests/test_smoke.py::test_smoke[x]": SMOKE_BUDGET + 0.1}
    (line,) = overdrawn(seconds)
    assert line.startswith("smoke of x")
    assert overdrawn({"tests/test_smoke.py::test_smoke[x]": SMOKE_BUDGET - 0.1}) == []


def test_only_a_slower_machine_moves_the_budgets():
    assert slowness([0.5 * REFERENCE_SECONDS]) == 1
    assert slowness([0.5 * REFERENCE_SECONDS, 3 * REFERENCE_SECONDS, 2 * REFERENCE_SECONDS]) == 2


def test_the_table_has_a_row_per_folder():
    seconds = {
        "tests/projects/x/test_a.py::test_0[a-b]": 1.0,
        "tests/projects/x/test_b.py::test_1": 2.0,
        "tests/unit/kernels/gpu/test_a.py::test_0": 3.0,
        "tests/test_smoke.py::test_0": 4.0,
    }
    assert {folder_of(test) for test in seconds} == {
        "tests/projects/x",
        "tests/unit/kernels",
        "tests/test_smoke.py",
    }
    lines = table(seconds, {"start": 5.0}, 1.0)
    assert "| tests/projects/x | 2 | 3.0 | test_1 | 2.0 |" in lines
    assert "| all | 4 | 15.0 | | |" in lines


PLUGIN = """
from tests import cpu_seconds
def pytest_addoption(parser):
    parser.addoption("--cpu-seconds")
    parser.addoption("--cpu-budgets", action="store_true")
def pytest_configure(config):
    cpu_seconds.PROJECT_BUDGET = {budget}
    cpu_seconds.slowness = lambda seconds: 1.0  # however slow this machine is just now
    cpu_seconds.preload.MODULES = ()
    config.pluginmanager.register(cpu_seconds.CpuSeconds(config))
"""
BURN = """
import subprocess, sys, time
BURN = "import time\\nwhile time.process_time() < 0.3: pass"
def test_here():
    start = time.process_time()
    while time.process_time() - start < 0.3: pass
def test_in_a_child():
    subprocess.run([sys.executable, "-c", BURN], check=True)
def test_asleep():
    time.sleep(0.3)
"""


@pytest.mark.parametrize(
    ("budget", "asked", "code", "workers"),
    [
        pytest.param(
            0.3, True, 1, "2", marks=pytest.mark.nightly
        ),  # starts two workers: make faults
        (0.3, True, 1, "0"),
        (0.3, False, 0, "0"),
        (60.0, True, 0, "0"),
    ],
)
def test_a_run_that_asks_fails_when_a_project_spends_too_much(
    tmp_path, budget, asked, code, workers
):
    folder = tmp_path / "tests/projects/demo"
    folder.mkdir(parents=True)
    (tmp_path / "plugin_of_the_run.py").write_text(PLUGIN.format(budget=budget))
    (folder / "test_demo.py").write_text(BURN)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    words = [
        "-m",
        "pytest",
        "tests",
        "-p",
        "plugin_of_the_run",
        "-n",
        workers,
        "--cpu-seconds=times.md",
        *["--cpu-budgets"][: int(asked)],
    ]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert ("tests/projects/demo: " in done.stdout) == (budget < 1)  # listed in any case
    row = next(x for x in (tmp_path / "times.md").read_text().splitlines() if "demo" in x)
    spent = float(row.split("|")[3])
    assert spent >= 0.6
    assert "test_asleep" not in row


def test_users_of_the_pool_are_found_also_behind_a_fixture(tmp_path):
    path = tmp_path / "test_a.py"
    path.write_text(
        "def trained(two_ranks): ...\ndef test_a(trained): ...\ndef test_b(other): ...\n"
    )
    assert users_of_the_pool(path) == POOL_FIXTURES | {"trained", "test_a"}
    assert group_of("test_a.py::test_a[x::y]", tmp_path) == POOL
    assert group_of("test_a.py::test_b", tmp_path) == "test_a.py"


def test_files_that_start_programs_come_first_the_others_keep_their_order():
    groups = [POOL, "tests/unit/test_a.py", "tests/test_b.py", EVIDENCE, "tests/test_c.py"]
    assert long_ones_first(groups) == [
        "tests/test_b.py",
        "tests/test_c.py",
        POOL,
        "tests/unit/test_a.py",
        EVIDENCE,
    ]


def test_who_looks_at_all_evidence_shares_a_worker():
    words = "from tests.published " + "import"
    users = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("tests/**/test_*.py")
        if words in path.read_text(encoding="utf-8")
    }
    assert users
    assert users <= EVIDENCE_FILES
    for name in EVIDENCE_FILES:
        assert group_of(f"{name}::test_a", ROOT) == EVIDENCE


def test_every_collected_test_of_the_pool_is_in_its_group(request):
    """What the source says agrees with the fixtures that pytest resolved."""
    items = request.session.items
    for item in items:
        in_pool = bool(POOL_FIXTURES & set(getattr(item, "fixturenames", ())))
        assert (group_of(item.nodeid, Path(request.config.rootpath)) == POOL) == in_pool, item


def test_make_faults_runs_every_file_with_tests_for_the_night():
    joined = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    line = next(x for x in joined.splitlines() if "LATE :=" in x)
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"@pytest\.mark\.nightly|marks=.*pytest\.mark\.nightly", path.read_text())
    }
    assert set(line.split(":=")[1].split()) == {n for n in marked if "tests/nightly/" not in n}
