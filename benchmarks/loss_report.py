"""CSV, figure and Markdown tables of `bench_losses.py`."""

import csv
import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch

Row = dict[str, object]
Setting = Mapping[str, object]

FIELDS = [
    "date",
    "cpu",
    "cores",
    "torch",
    "dim",
    "threads",
    "rounds",
    "case",
    "name",
    "version",
    "n",
    "cpu_s",
    "wall_s",
    "cpu_ratio",
    "wall_ratio",
    "extra_mib",
    "note",
]
# Blind-safe colours; ours are the saturated ones.
_COLOURS = ["#0072B2", "#56B4E9", "#D55E00", "#999999", "#E69F00", "#009E73"]


def machine() -> dict[str, object]:
    """Date, processor, physical cores and version of torch."""
    import psutil

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": name,
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "torch": torch.__version__,
    }


def merged(rows: Sequence[Row], setting: Setting, path: Path | None = None) -> list[Row]:
    """The rows with machine and setting, after those of `path` that they do not replace.

    Raises:
        ValueError: if the file was measured on another machine or with another setting.
    """
    about = {**machine(), **setting}
    new = [{**about, **row} for row in rows]
    if path is None or not path.exists():
        return new
    with path.open(newline="") as file:
        old = [{k: _parsed(k, v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    same = ("cpu", "cores", "torch", "dim")
    for row in old:
        if any(str(row[name]) != str(about[name]) for name in same):
            raise ValueError(f"{path} is from another machine or setting: run without --merge")
    replaced = {(r["case"], r["name"], r["n"]) for r in new}
    both = [r for r in old if (r["case"], r["name"], r["n"]) not in replaced] + new
    order = list(dict.fromkeys((r["case"], r["name"]) for r in both))
    return sorted(both, key=lambda r: (r["n"], order.index((r["case"], r["name"]))))


def _parsed(name: str, text: str) -> object:
    if name in ("n", "rounds", "threads", "dim", "cores"):
        return int(text)
    return float(text) if name.endswith(("_s", "_ratio", "_mib")) else text


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per case, contender and size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def write_figure(rows: Sequence[Row], path: Path) -> None:
    """Time over the floor (above) and extra memory (below) against N, one column per case."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = plt.subplots(2, len(cases), figsize=(4 * len(cases), 7), squeeze=False)
    for column, case in enumerate(cases):
        names = list(dict.fromkeys(r["name"] for r in rows if r["case"] == case))
        for colour, name in zip(_COLOURS, names, strict=False):
            mine = [r for r in rows if (r["case"], r["name"]) == (case, name) and "cpu_s" in r]
            sizes = [r["n"] for r in mine]
            style = {"color": colour, "marker": "o", "label": name}
            axes[0][column].plot(sizes, [r["cpu_ratio"] for r in mine], **style)
            axes[1][column].plot(sizes, [_positive(r.get("extra_mib")) for r in mine], **style)
        axes[0][column].set(title=case, ylabel="CPU time / three products")
        axes[0][column].set(xscale="log", yscale="log")
        axes[1][column].set(xlabel="N", ylabel="peak extra MiB", xscale="log", yscale="log")
        axes[0][column].legend(fontsize=7)
        for axis in axes[:, column]:
            axis.set_xticks(sorted({r["n"] for r in rows}), sorted({r["n"] for r in rows}))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    figure.suptitle(caption(rows), fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _positive(value: object) -> float:
    """For a logarithmic axis: at least 0.1 MiB; NaN if not measured."""
    return float("nan") if value is None else max(0.1, float(str(value)))


def caption(rows: Sequence[Row]) -> str:
    """Where and how the numbers were measured."""
    about = rows[0]
    threads, rounds, dates = (
        " and ".join(sorted({str(r[n]) for r in rows})) for n in ("threads", "rounds", "date")
    )
    return (
        f"{about['cpu']}, {about['cores']} cores, {threads} threads, torch "
        f"{about['torch']}, fp32, D = {about['dim']}, {rounds} rounds, {dates}"
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown: per contender and size, CPU and wall time over the floor and extra memory."""
    sizes = sorted({int(str(row["n"])) for row in rows})
    lines = [
        f"Forward + backward; each cell: CPU time / wall time, as multiples of three N x N x D "
        f"products in the same round (median), and peak extra memory. {caption(rows)}.",
        "",
        "| case | implementation | " + " | ".join(f"N = {n}" for n in sizes) + " |",
        "|---|---|" + "---|" * len(sizes),
    ]
    for case, name in dict.fromkeys((row["case"], row["name"]) for row in rows):
        mine = {r["n"]: r for r in rows if (r["case"], r["name"]) == (case, name)}
        version = next(iter(mine.values())).get("version")
        shown = name if str(name).startswith(("ours", "dense", "torch")) else f"{name} {version}"
        if version is None:
            shown = name
        cells = [_cell(mine[n]) if n in mine else "not run at this size" for n in sizes]
        lines.append(f"| {case} | {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if "cpu_ratio" not in row:
        return str(row["note"])
    memory = row.get("extra_mib")
    extra = "memory not measured" if memory is None else f"{memory:.0f} MiB"
    return f"{row['cpu_ratio']:.2f} / {row['wall_ratio']:.2f}, {extra}"
