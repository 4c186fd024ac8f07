#!/usr/bin/env python3
"""Regenerate what is generated: `make docs`.

README's project table, docs/evidence.md, docs/equations.md, docs/sizes.md, both pictures drawn from
these, the rooms of docs/architecture.md and the vision table of docs/performance.md. ``--check``
changes nothing, names what is out of date and then exits with 1. (`make bench` writes the table of
the losses itself.) Run it after a merge, not in a project's own
branch: branches that leave the generated parts alone do not conflict in them.
"""

import csv
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.engine.comparison.evidence import current_page, evidence_rows  # noqa: E402
from common.engine.comparison.pages import (  # noqa: E402
    counts,
    evidence_picture,
    project_table,
    read_results,
)
from common.registry import field_of, list_projects  # noqa: E402
from scripts.architecture_picture import architecture_picture  # noqa: E402
from scripts.equation_index import equation_index  # noqa: E402
from scripts.rooms_table import rooms_table  # noqa: E402
from scripts.sizes_table import sizes_page  # noqa: E402

NO_GPU = "Not run on a GPU. `make gpu-check` measures this table where one is.\n"
BENCHMARKS = (("augment", "two augmented views"), ("vision_training", "training"))


def between(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers of that name.

    Raises:
        ValueError: the markers are missing.
    """
    block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    if not block.search(text):
        raise ValueError(f"no '<!-- {name}:begin -->' ... '<!-- {name}:end -->' block")
    return block.sub(lambda m: m[1] + content + m[2], text)


def gpu_table() -> str:
    """Losses on a GPU, from benchmarks/results/losses_gpu.csv: over the floor, and peak memory."""
    path = ROOT / "benchmarks" / "results" / "losses_gpu.csv"
    if not path.exists():
        return NO_GPU
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["candidate"] != "floor"]
    if not rows:  # the header alone, of a run that was cut off
        return NO_GPU
    shapes = list(dict.fromkeys((r["dtype"], r["n"], r["dim"]) for r in rows))
    heads = [f"{dtype}, N = {n}, D = {dim}" for dtype, n, dim in shapes]
    lines = [
        "| case | implementation | " + " | ".join(heads) + " |",
        "|---" * (len(shapes) + 2) + "|",
    ]
    for case, name in dict.fromkeys((r["case"], r["candidate"]) for r in rows):
        mine = {
            (r["dtype"], r["n"], r["dim"]): r
            for r in rows
            if (r["case"], r["candidate"]) == (case, name)
        }
        cells = []
        for shape in shapes:
            row = mine.get(shape)
            memory = "" if row is None else row["peak_mib"]
            timed = row is not None and row["over_floor"]
            cells.append(
                f"{row['over_floor']} ({row['ms']} ms), {memory} MiB"
                if row and timed
                else memory or "not run"
            )
        lines.append(f"| {case} | {name} | " + " | ".join(cells) + " |")
    one = rows[0]
    about = (
        f"{one['card']}, torch {one['torch']}, CUDA {one['cuda']}, Triton {one['triton']},"
        f" {one['date']}"
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Multiples of the products that a case needs at least, in the same round: {about}.",
            "",
        ]
    )


def vision_table() -> str:
    """Images per second of our image pipeline and of its peers, from benchmarks/results."""
    rows = [
        "| case | implementation | images / s | images / CPU s | ours / it, by time (CPU time) |",
        "|---|---|---|---|---|",
    ]
    notes = []
    for stem, what in BENCHMARKS:
        path = ROOT / "benchmarks" / "results" / f"{stem}.csv"
        if not path.exists():
            rows.append(f"| {what} | all | not run | not run | not run |")
            continue
        with path.open(newline="", encoding="utf-8") as file:
            found = sorted(csv.DictReader(file), key=lambda r: (r["case"], r["name"] != "ours"))
        for row in found:
            ratio = "" if row["name"] == "ours" else f"{row['ratio']} ({row['cpu_ratio']})"
            speeds = f"{row['images_per_second']} | {row['cpu_images_per_second']}"
            rows.append(f"| {what}: {row['case']} | {row['name']} | {speeds} | {ratio} |")
        one = found[0]
        notes.append(
            f"{what}: {one['machine']} (load {one['load']}), {one['threads']} thread, torch"
            f" {one['torch']}, torchvision {one['torchvision']}, lightly {one['lightly']}, median"
            f" of {one['rounds']} interleaved rounds, {one['date']}"
        )
    return "\n".join(rows) + "\n" + ("\n" + "; ".join(notes) + ".\n" if notes else "")


def parts() -> Mapping[str, Callable[[str], str]]:
    """File -> function from its present text to the text that it should have."""
    projects, results = list_projects(), read_results(ROOT / "results")
    rows = evidence_rows()

    def readme(text: str) -> str:
        fields = {slug: field_of(slug) for slug in projects}
        text = between(text, "projects", project_table(projects, results, fields))
        return between(text, "evidence", counts(rows) + "\n")

    return {
        "README.md": readme,
        "docs/evidence.md": lambda _: current_page(rows),
        "docs/images/evidence.svg": lambda _: evidence_picture(rows),
        "docs/images/architecture.svg": lambda _: architecture_picture(ROOT),
        "docs/sizes.md": lambda _: sizes_page(ROOT),
        "docs/equations.md": lambda _: equation_index(ROOT),
        "docs/architecture.md": lambda text: between(text, "rooms", rooms_table(ROOT)),
        "docs/performance.md": lambda text: between(
            between(text, "vision", vision_table()), "gpu", gpu_table()
        ),
    }


def stale() -> dict[str, str]:
    """Files whose generated part is out of date -> the text that they should have."""
    found = {}
    for name, wanted in parts().items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (new := wanted(text)) != text:
            found[name] = new
    return found


def main(check: bool) -> int:
    """Write the files, or name those that are out of date."""
    found = stale()
    for name, text in found.items():
        if check:
            print(f"out of date: {name}; run make docs")
        else:
            (ROOT / name).write_text(text, encoding="utf-8")
            print(f"written: {name}")
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
