"""The Triton kernels in Triton's interpreter against the dense float64 reference.

The interpreter must be chosen before Triton is imported, so the cases (``triton_cases``) run in a
process of their own; here each becomes a test. It is slow: shapes are about 44 x 75 x 40.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from common.kernels.gpu import launch as triton_launch
from tests.unit.kernels import triton_cases, triton_checks

pytest.importorskip("triton")
pytestmark = pytest.mark.timeout(900)  # the first test waits for all cases

ROOT = Path(__file__).parents[3]
STATISTICS = 1e-5
GRADIENTS = {
    "fp32": 5e-6,
    "bf16": 4e-3,
    "half": 6e-3,
    "api": 5e-6,
}  # bf16: the interpreter truncates G
ROUNDED = 1e-3  # statistics where products may be rounded: float16 operands, scale 14
ROUNDED_MORE = 8e-3  # rows that are no unit vectors: bfloat16, three bits less
CONFIDENT = 1e-2  # P_ii about 0.9995: rounding P_ii itself before subtracting 1 would give about 1

HOST_CALLS = {"clip": 198, "siglip": 128}  # may only shrink
NAMES = {group: list(cases) for group, cases in triton_cases.all_cases().items()}


@cache
def results() -> dict[str, dict[str, dict[str, Any]]]:
    """Errors by group, case and quantity; one process for all, as most of a small one is
    imports."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.unit.kernels.triton_cases"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    parsed: dict[str, dict[str, dict[str, Any]]] = json.loads(done.stdout)
    return parsed


def tolerance(group: str, case: str, quantity: str) -> float:
    if not quantity.startswith("d"):
        if group != "half":
            return STATISTICS
        return ROUNDED_MORE if case == "long_rows" else ROUNDED
    return CONFIDENT if case.startswith("confident") else GRADIENTS[group]


@pytest.mark.parametrize(
    ("group", "case"),
    [(g, c) for g, cases in NAMES.items() for c in cases if c != "broken" and g != "host"],
)
def test_kernels_match_the_reference(group: str, case: str) -> None:
    errors = results()[group][case]
    assert errors
    wrong = {n: e for n, e in errors.items() if not e <= tolerance(group, case, n)}
    assert not wrong


def test_half_precision_is_taken_where_it_is_allowed_and_nowhere_else() -> None:
    """Negative twin of the tolerances above: float32 problems lie far below them."""
    rounded, exact = results()["half"]["clip"], results()["fp32"]["online"]
    assert rounded["row_lse"] > 10 * exact["row_lse"]
    assert rounded["dq"] > 100 * GRADIENTS["fp32"] / 5
    assert results()["fp32"]["tf32"]["dq"] <= GRADIENTS["fp32"]  # the interpreter has no TF32


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_the_host_calls_of_a_step_are_few_and_do_not_grow(loss: str) -> None:
    """Each costs microseconds before the card has work; chunks of rows alone may add some."""
    calls = results()["host"]["calls"]
    assert calls[f"{loss}_32"] == calls[f"{loss}_128"] <= HOST_CALLS[loss]


def test_fake_operators_give_the_shapes_and_dtypes_of_the_real_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_launch, "FIXED_SIZE", 1)  # as for the real ones
    real = results()["host"]["shapes"]
    for name, problem in triton_checks.shape_problems().items():
        with FakeTensorMode() as mode:
            fake = triton_checks.statistics(problem, mode.from_tensor)
        assert [[list(x.shape), str(x.dtype)] for x in fake] == real[name]
    assert real["bf16"] != real["not_kept"]


def test_a_different_mask_is_noticed() -> None:
    assert results()["fp32"]["broken"]["row_lse"] > 100 * STATISTICS


def test_most_spec_kinds_are_covered() -> None:
    assert sum(len(cases) for cases in NAMES.values()) >= 45
