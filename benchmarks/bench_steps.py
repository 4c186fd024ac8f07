#!/usr/bin/env python3
"""Steps of paper configs on one thread of a CPU, against the time that the model of a node gives.

    python benchmarks/bench_steps.py [--quick]

The model (`common/engine/node.py`) counts the products of a forward pass, multiplies them by the
passes of a step and divides by a share of the device's peak. Here the peak is what `torch.mm`
reaches with float32 matrices of 1536 x 1536 on the same thread, measured between the steps. A step
is the forward pass that the model counts and its backward pass, with random weights and few rows:
losses, views and the optimiser are left out. Mistral-7B keeps two of its 32 layers. CPU time, best
of the rounds.

Writes benchmarks/results/steps.csv; with --quick to build/bench.
"""

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from measure import results_folder, write_rows

from common.engine.node import BACKWARD, RECOMPUTED, forward_flops, recomputes
from common.engine.run import prepare
from common.engine.workspace import cpu_name

MATRIX = 1536
ONE_CPU = (
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.num_nodes=1",
    "trainer.precision=32-true",
)
SHORT = (  # Mistral-7B with two layers
    "model.pretrained=random",
    "model.weights=float32",
    "model.config={model_type: mistral, hidden_size: 4096, intermediate_size: 14336, "
    "num_hidden_layers: 2, num_attention_heads: 32, num_key_value_heads: 8, vocab_size: 32000}",
)


class Case(NamedTuple):
    """A paper config and the rows of its step."""

    project: str
    rows: int
    settings: tuple[str, ...] = ()


CASES = (
    Case("clip_baselines", 8),
    Case("dcl", 16),
    Case("contriever", 4),
    Case("nv_embed", 1, (*SHORT, "data.max_length=128")),
    Case("trend", 1),
    Case("coconut", 4),
    Case("simcse", 32),
    Case("laclip", 8),
)


def seconds_of(run: Callable[[], object]) -> float:
    """CPU-seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def product_rate() -> float:
    """FLOP/s of one large product."""
    a, b = torch.randn(2, MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)
    best = min(seconds_of(lambda: torch.mm(a, b, out=out)) for _ in range(3))
    return 2 * MATRIX**3 / best


def measure(case: Case, rounds: int) -> dict[str, object]:
    """What a step takes, and the share of the products' rate that it reaches."""
    cfg, experiment = prepare(
        case.project, "paper", [*ONE_CPU, f"data.batch_size={case.rows}", *case.settings]
    )
    plan = experiment.plan()
    assert plan.forward is not None
    forward = plan.forward
    with torch.device("meta"):
        flops = forward_flops(forward, plan.module(), case.rows)
    assert flops is not None
    module = plan.module().train()
    forwards, steps, rates = [], [], []
    for _ in range(rounds):
        rates.append(product_rate())
        outputs: list[torch.Tensor] = []
        forwards.append(seconds_of(lambda: outputs.append(forward(module, case.rows))))  # noqa: B023
        backward: Callable[[], None] = outputs[0].sum().backward
        steps.append(forwards[-1] + seconds_of(backward))
        module.zero_grad(set_to_none=True)
    passes = RECOMPUTED if recomputes(cfg) else BACKWARD
    counted = passes * flops / max(rates)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": cpu_name(),
        "project": case.project,
        "rows": case.rows,
        "gflop_forward": f"{flops / 1e9:.1f}",
        "gflop_per_second_mm": f"{max(rates) / 1e9:.0f}",
        "seconds_step": f"{min(steps):.2f}",
        "passes": f"{passes:.0f}",
        "passes_measured": f"{min(steps) / min(forwards):.2f}",
        "share_of_mm": f"{counted / min(steps):.2f}",
    }


def main() -> None:
    """Measure all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of the first two")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = []
    for case in CASES[:2] if quick else CASES:
        rows.append(measure(case, 1 if quick else 5))
        print(", ".join(f"{key} {value}" for key, value in list(rows[-1].items())[2:]), flush=True)
    share = statistics.median(float(str(row["share_of_mm"])) for row in rows)
    far = max(abs(share / float(str(row["share_of_mm"])) - 1) for row in rows)
    print(f"median share {share:.2f}; with it the model is off by at most {far:.0%}")
    write_rows(rows, results_folder(quick) / "steps.csv")


if __name__ == "__main__":
    main()
