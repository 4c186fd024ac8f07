"""Peak extra memory of the blocked back end, measured in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs the high-water mark of Linux"
)

DIM = 128

PROBE = """
import json, sys, torch
from common.kernels.pair import info_nce
from common.kernels.specs.weights import nt_xent_spec
from common.kernels.pair import pair_stats
mode, n, dim, budget = sys.argv[1], *map(int, sys.argv[2:])
def peak():  # not ru_maxrss: that one is inherited from the parent process
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])
def run(n):
    q = torch.nn.functional.normalize(torch.randn(n, dim)).requires_grad_()
    k = torch.nn.functional.normalize(torch.randn(n, dim)).requires_grad_()
    before = peak()
    if mode == "self":
        stats = pair_stats(q, q, 10.0, nt_xent_spec(n // 2), memory_budget=budget)
        (stats.row_lse - stats.row_lin).mean().backward()
    else:
        symmetric = mode == "symmetric"
        info_nce(q, k, 10.0, symmetric=symmetric, memory_budget=budget).backward()
    return peak() - before
run(600)  # first use of the operators and of the matrix library
print(json.dumps(run(n)))
"""


def extra_memory(mode: str, num: int, budget: int = 0) -> int:
    """Bytes by which the high-water mark grows in forward and backward, inputs not counted."""
    command = [sys.executable, "-c", PROBE, mode, str(num), str(DIM), str(budget)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(json.loads(output))


def allowed(num: int, budget: int = 0) -> int:
    """Budget, tiles or a strip of 4 M pairs and as much again, three times the inputs."""
    return budget + 2 * 2**22 * 4 + 3 * 2 * num * DIM * 4


@pytest.mark.parametrize("mode", ["symmetric", "rows", "self"])
def test_memory_is_linear_in_the_batch(mode: str) -> None:
    num = 8192
    used = extra_memory(mode, num)
    assert used < allowed(num)
    assert used < 0.5 * num * num * 4  # half of the logits, let alone their copies


def test_a_budget_is_used_and_respected() -> None:
    num, budget = 4096, 40 * 2**20
    used = extra_memory("symmetric", num, budget)
    assert 0.7 * budget < used < allowed(num, budget)
