#!/usr/bin/env python3
"""Tables of docs/performance.md from benchmarks/results.

    python benchmarks/report_tables.py

`bench_augment.py` and `bench_vision_training.py` call it when they have measured; call it yourself
once `losses_gpu.csv` of `make gpu-check` is in benchmarks/results.
"""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
NO_GPU = "Not yet run on a GPU; `make gpu-check` measures this table.\n"
VISION = (("augment", "two augmented views"), ("vision_training", "training"))


def replace_block(path: Path, name: str, content: str) -> None:
    """Write `content` between the markers of that name.

    Raises:
        ValueError: the markers are missing.
    """
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    text = path.read_text(encoding="utf-8")
    if not block.search(text):
        raise ValueError(f"{path}: no '<!-- {name}:begin -->' ... '<!-- {name}:end -->' block")
    path.write_text(block.sub(lambda m: m[1] + content + m[2], text), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def gpu_table(path: Path = RESULTS / "losses_gpu.csv") -> str:
    """Losses on a GPU: time over the floor, and peak memory."""
    rows = [row for row in read_rows(path) if row["candidate"] != "floor"]
    if not rows:  # no file, or the header alone of a run that was cut off
        return NO_GPU
    shapes = list(dict.fromkeys((r["dtype"], r["n"], r["dim"]) for r in rows))
    heads = [f"{dtype}, N = {n}, D = {dim}" for dtype, n, dim in shapes]
    lines = [
        "| case | implementation | " + " | ".join(heads) + " |",
        "|---" * (len(shapes) + 2) + "|",
    ]
    cells = {(r["case"], r["candidate"], r["dtype"], r["n"], r["dim"]): _gpu_cell(r) for r in rows}
    for case, name in dict.fromkeys((r["case"], r["candidate"]) for r in rows):
        shown = [cells.get((case, name, *shape), "not run") for shape in shapes]
        lines.append(f"| {case} | {name} | " + " | ".join(shown) + " |")
    lines += [
        "",
        f"Multiples of the least products of a case, in the same round: {_card(rows[0])}.",
    ]
    return "\n".join([*lines, ""])


def _gpu_cell(row: dict[str, str]) -> str:
    if not row["over_floor"]:
        return row["peak_mib"] or "not run"
    return f"{row['over_floor']} ({row['ms']} ms), {row['peak_mib']} MiB"


def _card(row: dict[str, str]) -> str:
    versions = f"torch {row['torch']}, CUDA {row['cuda']}, Triton {row['triton']}"
    return f"{row['card']}, {versions}, {row['date']}"


def vision_table() -> str:
    """Images per second of our image pipeline and of its peers."""
    lines = [
        "| case | implementation | images/s | images/CPU-second | ours over it, time (CPU time) |",
        "|---|---|---|---|---|",
    ]
    notes = []
    for stem, what in VISION:
        rows = sorted(
            read_rows(RESULTS / f"{stem}.csv"), key=lambda r: (r["case"], r["name"] != "ours")
        )
        if not rows:
            lines.append(f"| {what} | all | not run | not run | not run |")
            continue
        for row in rows:
            ratio = "" if row["name"] == "ours" else f"{row['ratio']} ({row['cpu_ratio']})"
            speeds = f"{row['images_per_second']} | {row['cpu_images_per_second']}"
            lines.append(f"| {what}: {row['case']} | {row['name']} | {speeds} | {ratio} |")
        about = rows[0]
        notes.append(
            f"{what}: {about['machine']} (load {about['load']}), {about['threads']} thread, torch"
            f" {about['torch']}, torchvision {about['torchvision']}, lightly {about['lightly']},"
            f" median of {about['rounds']} interleaved rounds, {about['date']}"
        )
    return "\n".join(lines) + "\n" + ("\n" + "; ".join(notes) + ".\n" if notes else "")


def write_tables() -> None:
    """Write both tables."""
    replace_block(PAGE, "vision", vision_table())
    replace_block(PAGE, "gpu", gpu_table())


if __name__ == "__main__":
    write_tables()
