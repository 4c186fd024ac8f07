"""Peak extra memory of the blocked back end.

Each probe is a fork of one process that has imported what it needs. Large blocks come fresh from
the system, so that no probe takes pages that the imports have freed.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs the high-water mark of Linux"
)

DIM, NUM, NUM_KEPT, BUDGET = 128, 6144, 4096, 40 * 2**20
PROBES = [
    ("symmetric", NUM, 0),
    ("rows", NUM, 0),
    ("self", NUM, 0),
    ("symmetric", NUM_KEPT, BUDGET),
]

PROBE = """
import json, os, sys, torch
import torch._dynamo  # what the first call of an operator imports
from common.kernels.pair import info_nce
from common.kernels.specs.weights import nt_xent_spec
from common.kernels.pair import pair_stats
dim = int(sys.argv[1])
def now(name):  # VmHWM, the peak: not ru_maxrss, which is inherited from the parent process
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(name)).split()[1])
def run(mode, n, budget):
    q = torch.nn.functional.normalize(torch.randn(n, dim)).requires_grad_()
    k = torch.nn.functional.normalize(torch.randn(n, dim)).requires_grad_()
    before = now("VmRSS")
    if mode == "self":
        stats = pair_stats(q, q, 10.0, nt_xent_spec(n // 2), memory_budget=budget)
        (stats.row_lse - stats.row_lin).mean().backward()
    else:
        symmetric = mode == "symmetric"
        info_nce(q, k, 10.0, symmetric=symmetric, memory_budget=budget).backward()
    return now("VmHWM") - before
for mode, n, budget in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        run(mode, 600, budget)  # first use of the operators and of the matrix library
        print(run(mode, n, budget), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the probe failed")
"""


@cache
def measured() -> dict[tuple[str, int, int], int]:
    """Per probe the bytes that forward and backward add to the high-water mark, without inputs."""
    command = [sys.executable, "-c", PROBE, str(DIM), json.dumps(PROBES)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # where given it stays as it is
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return dict(zip(PROBES, map(int, output.split()), strict=True))


def allowed(num: int, budget: int = 0) -> int:
    """Budget, tiles or a strip of 4 M pairs and as much again, three times the inputs."""
    return budget + 2 * 2**22 * 4 + 3 * 2 * num * DIM * 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["symmetric", "rows", "self"])
def test_memory_is_linear_in_the_batch(mode: str) -> None:
    used = measured()[mode, NUM, 0]
    assert used < allowed(NUM)
    assert used < 0.5 * NUM * NUM * 4  # half of the logits, let alone their copies


def test_a_budget_is_used_and_respected() -> None:
    used = measured()["symmetric", NUM_KEPT, BUDGET]
    assert 0.7 * BUDGET < used < allowed(NUM_KEPT, BUDGET)
