#!/usr/bin/env python3
"""`make gpu-check`: everything that needs a CUDA device, in pieces that can be interrupted.

Kernel tests and bit-equal resume on the device, two devices against one (left out where there is
one), the losses against other libraries in every precision, and one short training run each of
laclip and simcse. A losses piece fails if one of ours is further from float64 than its precision
allows. A piece takes at most nine minutes and has a file of its own in the results folder; what has
passed with the same commit on the same card is not run again, so the same command goes on after a
cut. Triton builds its launchers in C: without a compiler and Python's headers nothing is begun.

    python benchmarks/gpu_check.py [--out reports/gpu-check] [--minutes 9]
        [--only tests losses-bf16] [--dry-run]

Exit code: 0 all passed, 1 something failed (named), 2 no device or no compiler, 3 the minutes are
over and pieces are left.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.kernels.gpu.toolchain import unmet

LIMIT = 540  # seconds of a piece
PRECISIONS = ("bf16", "half", "tf32", "fp32")


@dataclass(frozen=True)
class Piece:
    """A command and what it is for."""

    name: str
    what: str
    words: Sequence[str]
    devices: int = 1  # that it needs


def pieces(out: Path) -> list[Piece]:
    """What is run, in this order."""
    cli = ["-m", "common.cli", "train"]
    short = [
        "trainer.accelerator=gpu",
        "trainer.devices=1",
        "trainer.max_steps=60",
        "tracking.wandb=disabled",
    ]
    bench = str(ROOT / "benchmarks/bench_losses_gpu.py")
    # of this commit alone: rows that another one has measured are no check of this one
    table = str(out / f"losses_gpu-{commit()}.csv")
    return [
        Piece(
            "tests",
            "kernels against float64 and dense torch",
            ["-m", "pytest", "tests/gpu", "-q", "-rs", "-k", "not resume and not two_gpus"],
        ),
        Piece(
            "resume",
            "a run that goes on equals one that was not stopped",
            ["-m", "pytest", "tests/gpu", "-q", "-rs", "-k", "resume"],
        ),
        Piece(
            "two-gpus",
            "two devices train the weights of one, by copies and by shards",
            ["-m", "pytest", "tests/gpu", "-q", "-rs", "-k", "two_gpus"],
            devices=2,
        ),
        *[
            Piece(
                f"losses-{p}",
                f"losses in {p} against other libraries",
                [bench, "--dtypes", p, "--out", table],
            )
            for p in PRECISIONS
        ],
        *[
            Piece(
                f"train-{p}",
                f"sixty steps of {p}",
                [
                    *cli,
                    p,
                    "mini",
                    *short,
                    f"runs_dir={out / 'runs'}",
                    f"run_id=gpu-{int(time.time())}",
                ],
            )
            for p in ("laclip", "simcse")
        ],
    ]


def card() -> str:
    """Name of the device, empty where there is none; asked in a process of its own."""
    return _asked("torch.cuda.get_device_name() if torch.cuda.is_available() else ''")


def devices() -> int:
    """How many there are."""
    return int(_asked("torch.cuda.device_count()") or 0)


def _asked(expression: str) -> str:
    words = [sys.executable, "-c", f"import torch; print({expression})"]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def commit() -> str:
    """Of the checkout; "unknown" outside of one, or without git."""
    words = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return "unknown"
    return done.stdout.strip()[:10] or "unknown"


def run_piece(piece: Piece, out: Path, about: dict[str, str], limit: float) -> dict[str, object]:
    """Run one piece; its output and its result lie in the folder before this returns."""
    start, log = time.monotonic(), out / f"{piece.name}.log"
    with log.open("w", encoding="utf-8") as handle:
        process = subprocess.Popen(
            [sys.executable, *piece.words],
            cwd=ROOT,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = 124
    seconds = round(time.monotonic() - start, 1)
    result: dict[str, object] = {
        **about,
        "piece": piece.name,
        "what": piece.what,
        "exit_code": code,
        "seconds": seconds,
    }
    (out / f"{piece.name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def result_of(piece: Piece, out: Path, about: dict[str, str]) -> dict[str, object] | None:
    """What an earlier command left of this piece, with this commit on this card."""
    path = out / f"{piece.name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found if all(found.get(k) == v for k, v in about.items()) and about else None


def summary(results: Sequence[dict[str, object]], left: Sequence[Piece], out: Path) -> str:
    """Markdown of all results; failures with the end of their log."""
    lines = ["| piece | what | result | seconds | card | commit |", "|---|---|---|---|---|---|"]
    failed = []
    for r in results:
        ok = r["exit_code"] == 0
        said = (
            "passed"
            if ok
            else "over the time"
            if r["exit_code"] == 124
            else f"failed ({r['exit_code']})"
        )
        lines.append(
            f"| {r['piece']} | {r['what']} | {said} | {r['seconds']} | {r['card']} |"
            f" {r['commit']} |"
        )
        failed += [] if ok else [str(r["piece"])]
    for p in left:
        why = f" (needs {p.devices} devices)" if p.devices > 1 else ""
        lines.append(f"| {p.name} | {p.what} | not run{why} | | | |")
    for name in failed:
        tail = (
            (out / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        )
        lines += ["", f"## {name}", "", "```", *tail, "```"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu-check")
    parser.add_argument(
        "--minutes", type=float, help="no piece is begun that could end later; default: none"
    )
    parser.add_argument("--only", nargs="+", help="names of pieces")
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    chosen = [p for p in pieces(out) if not args.only or p.name in args.only]
    if not chosen:
        sys.stderr.write(f"no such piece; there are {', '.join(p.name for p in pieces(out))}\n")
        return 2
    if args.dry_run:
        for piece in chosen:
            print(f"{piece.name}: python {' '.join(piece.words)}")
        return 0
    name = card()
    if not name:
        sys.stderr.write(
            "gpu-check needs a CUDA device; there is none here (--dry-run prints what it would"
            " do)\n"
        )
        return 2
    if lacks := unmet():
        sys.stderr.write(
            f"gpu-check needs {lacks}: Triton builds the launchers of its kernels in C\n"
        )
        return 2
    there = devices()
    beyond = [p for p in chosen if p.devices > there]
    chosen = [p for p in chosen if p not in beyond]
    if not chosen:
        sys.stderr.write(f"{beyond[0].name} needs {beyond[0].devices} devices, there is {there}\n")
        return 2
    out.mkdir(parents=True, exist_ok=True)
    about = {"card": name, "commit": commit()}
    deadline = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    results, left = [], list(chosen)
    for piece in chosen:
        found = result_of(piece, out, about)
        if found is None or found["exit_code"] != 0:
            limit = LIMIT if deadline is None else min(LIMIT, deadline - time.monotonic())
            if limit < 20:
                break
            print(f"{piece.name}: {piece.what} ...", flush=True)
            found = run_piece(piece, out, about, limit)
        left.remove(piece)
        results.append(found)
        (out / "summary.md").write_text(summary(results, [*left, *beyond], out), encoding="utf-8")
    print(summary(results, [*left, *beyond], out))
    if any(r["exit_code"] != 0 for r in results):
        return 1
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
