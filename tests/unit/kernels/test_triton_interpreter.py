"""The Triton kernels in Triton's interpreter against the dense float64 reference.

The interpreter must be chosen before Triton is imported, so the cases (``triton_cases``) run in one
process per group; here each becomes a test. It is slow: shapes are about 70 x 101 x 40.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.kernels import triton_cases

pytest.importorskip("triton")
pytestmark = pytest.mark.timeout(900)  # the first test waits for a group

ROOT = Path(__file__).parents[3]
STATISTICS = 1e-5
GRADIENTS = {"fp32": 5e-6, "bf16": 4e-3, "api": 5e-6}  # bf16: the interpreter truncates G
CONFIDENT = 1e-2  # P_ii about 0.9995: rounding P_ii itself before subtracting 1 would give about 1

NAMES = {group: list(cases) for group, cases in triton_cases.all_cases().items()}


JOBS = [("fp32", 0, 2), ("fp32", 1, 2), ("bf16", 0, 1), ("api", 0, 1)]  # group, first case, step


@cache
def started() -> dict[tuple[str, int, int], subprocess.Popen[str]]:
    """All jobs, side by side: one core each as far as there are cores."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unit.kernels.triton_cases"]
    pipes = {"cwd": ROOT, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return {
        (group, first, step): subprocess.Popen(
            [*command, group, *NAMES[group][first::step]], text=True, **pipes
        )
        for group, first, step in JOBS
    }


@cache
def finished(job: tuple[str, int, int]) -> dict[str, dict[str, float]]:
    process = started()[job]
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    parsed: dict[str, dict[str, float]] = json.loads(out)
    return parsed


def results(group: str) -> dict[str, dict[str, float]]:
    return {k: v for job in JOBS if job[0] == group for k, v in finished(job).items()}


def tolerance(group: str, case: str, quantity: str) -> float:
    if not quantity.startswith("d"):
        return STATISTICS
    return CONFIDENT if case.startswith("confident") else GRADIENTS[group]


@pytest.mark.parametrize(
    ("group", "case"), [(g, c) for g, cases in NAMES.items() for c in cases if c != "broken"]
)
def test_kernels_match_the_reference(group: str, case: str) -> None:
    errors = results(group)[case]
    assert errors
    wrong = {n: e for n, e in errors.items() if not e <= tolerance(group, case, n)}
    assert not wrong


def test_a_different_mask_is_noticed() -> None:
    assert results("fp32")["broken"]["row_lse"] > 100 * STATISTICS


def test_most_spec_kinds_are_covered() -> None:
    assert sum(len(cases) for cases in NAMES.values()) >= 45
