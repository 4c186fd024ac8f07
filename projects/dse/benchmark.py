"""A student with stored vectors against its cross-encoder on all pairs, in one run.

    python -m projects.dse.benchmark [--queries 100]

Both have the architecture of the `mini` and random weights, on which the time does not depend. The
teacher is timed on a part of the pairs (`--teacher-pairs`, spread over all of them), its time is
proportional to their number. The student's time holds the encoding of every query and candidate.
CPU seconds of one thread, fastest of the rounds.
"""

import argparse

import torch

from benchmarks.measure import results_folder, write_table
from common.config import load
from projects.dse.config import Config, SpeedConfig
from projects.dse.evaluate import repeated
from projects.dse.module import build_scorer
from projects.dse.pair_classifier import build_classifier, task_pairs
from projects.dse.speed import measure_costs, speed_metrics, speed_table

OUT = results_folder(quick=False) / "dse.csv"


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 10, 100, 500, 1000, 2000])
    parser.add_argument("--teacher-pairs", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load(Config, "dse", "mini", ["eval.parts=[dev]"])
    data = task_pairs(cfg.data, "dev", cfg.seed)
    options = SpeedConfig(args.queries, args.candidates, args.teacher_pairs, args.rounds)
    costs = measure_costs(
        build_scorer(cfg).eval(),
        build_classifier(cfg.teacher, cfg.data.pair_task).eval(),
        repeated(data.first, args.queries),
        repeated(data.second, max(args.candidates)),
        options,
    )
    rows = speed_table(costs, options)
    for row in rows:
        print("  ".join(f"{cell:>12}" for cell in row))
    for name, value in speed_metrics(costs, options).items():
        print(f"{name}: {value:.2f}")
    write_table(rows[0], rows[1:], OUT)


if __name__ == "__main__":
    main()
