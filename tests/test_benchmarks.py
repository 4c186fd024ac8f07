"""What all benchmarks keep to: quick figures are not published, and contenders that differ are
refused.
"""

import importlib
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from common.config import ROOT

BENCHMARKS = Path(measure.__file__).parent
QUICK = [
    path
    for path in sorted([*BENCHMARKS.glob("bench_*.py"), *ROOT.glob("projects/*/benchmark.py")])
    if "--quick" in (text := path.read_text(encoding="utf-8")) and "write" in text
]


@pytest.fixture
def benchmark_of(monkeypatch):
    """A benchmark's module by name; they look for each other beside themselves."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # else set by the import, and kept
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_quick_figures_are_no_results():
    assert measure.results_folder(False) == BENCHMARKS / "results"
    assert BENCHMARKS not in measure.results_folder(True).parents
    assert len(QUICK) > 5


@pytest.mark.parametrize("path", QUICK, ids=lambda path: str(path.relative_to(ROOT)))
def test_quick_runs_leave_the_results_alone(path):
    """Figures of few rounds on tiny sizes go elsewhere, or nowhere."""
    text = path.read_text(encoding="utf-8")
    assert re.search(r"results_folder\([\w.]*quick\)|if not [\w.]*quick", text)


@pytest.mark.parametrize("values", [(1.0, math.nan), (math.nan, 1.0), (math.nan,), (1.0, 1.1)])
def test_a_loss_that_is_no_number_agrees_with_nothing(benchmark_of, values):
    bench = benchmark_of("bench_losses")
    named = {f"loss {i}": value for i, value in enumerate(values)}
    with pytest.raises(SystemExit, match="not comparable"):
        bench.agree("a case", named)
    bench.agree("a case", {"ours": 1.0, "theirs": 1.00001})


@pytest.mark.parametrize("wrong", [math.nan, 10.0])
def test_views_that_are_no_numbers_are_refused(benchmark_of, wrong):
    bench = benchmark_of("bench_augment")

    def views(add=0.0):
        batch = torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2) + add
        return lambda rows: (batch, batch)

    bench.check_alike({bench.OURS: views(), "theirs": views(0.1)}, range(2))
    with pytest.raises(SystemExit, match="theirs augments otherwise"):
        bench.check_alike({bench.OURS: views(), "theirs": views(wrong)}, range(2))
    with pytest.raises(SystemExit, match="ours augments otherwise"):
        bench.check_alike({bench.OURS: views(math.nan)}, range(2))
