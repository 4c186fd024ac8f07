"""What a report shows of a project: its comparison, its latest runs, their curves and galleries."""

import base64
import io
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.engine.comparison.cards import markdown
from common.engine.comparison.results import read_results, result_path
from common.engine.lifecycle.find import OWNED
from common.engine.lifecycle.run import intact, read_meta
from common.engine.tracking import read_metrics
from common.engine.workspace import read_json

MAX_RUNS = 6  # latest runs shown per project


def project_contents(slug: str, runs: Path) -> dict[str, Any]:
    """A project's comparison and latest runs.

    Args:
        slug: of the project.
        runs: folder of all runs.

    Returns:
        ``slug``, ``comparison`` (None without a published result), ``runs`` (the latest), ``count``
        (of all) and ``sweeps``.
    """
    folders = intact(p.parent for p in sorted((runs / slug).glob("*/*/meta.json")))
    folders = [f for f in folders if not f.name.startswith(OWNED)]
    latest = sorted(folders, key=lambda f: (f / "meta.json").stat().st_mtime)[::-1][:MAX_RUNS]
    return {
        "slug": slug,
        "comparison": _comparison(slug),
        "count": len(folders),
        "runs": [_run(folder, f"{slug}-run-{i}") for i, folder in enumerate(latest, 1)],
        "sweeps": [_sweep(path) for path in sorted((runs / slug).glob("*/sweep/sweep.md"))],
    }


def _sweep(path: Path) -> dict[str, Any]:
    plots = sorted(path.parent.glob("*.png"))
    return {
        "markdown": path.read_text(encoding="utf-8"),
        "images": [_data_uri(plot.read_bytes()) for plot in plots],
    }


def _comparison(slug: str) -> dict[str, Any] | None:
    comparisons = read_results(slug)
    if not comparisons:
        return None
    plot = result_path(slug).with_suffix(".png")
    return {
        "markdown": markdown(comparisons),
        "image": _data_uri(plot.read_bytes()) if plot.exists() else None,
    }


def _run(folder: Path, anchor: str) -> dict[str, Any]:
    metrics, curves = folder / "metrics.json", folder / "metrics.csv"
    galleries = sorted((folder / "gallery").glob("*/gallery.json"))
    plots = sorted((folder / "plots").glob("*.png"))
    return {
        "name": f"{folder.parent.name}/{folder.name}",
        "anchor": anchor,
        "meta": read_meta(folder),
        "metrics": read_json(metrics) if metrics.exists() else {},
        "curves": _curves(curves) if curves.exists() else None,
        "plots": [{"name": p.stem, "image": _data_uri(p.read_bytes())} for p in plots],
        "galleries": [_gallery(path, anchor) for path in galleries],
    }


def _gallery(path: Path, anchor: str) -> dict[str, Any]:
    def embed(item: dict[str, str]) -> dict[str, str]:
        if "image" not in item:
            return item
        return {"image": _data_uri((path.parent / item["image"]).read_bytes())}

    rows: list[dict[str, Any]] = [
        {
            "query": embed(row["query"]),
            "results": [{**r, "item": embed(r["item"])} for r in row["results"]],
        }
        for row in read_json(path)
    ]
    shown = [x for row in rows for x in (row["query"], *(r["item"] for r in row["results"]))]
    name = path.parent.name
    return {
        "name": name,
        "anchor": f"{anchor}-{re.sub(r'[^0-9A-Za-z]+', '-', name)}",
        "rows": rows,
        "text": all("text" in x for x in shown),
    }


def _curves(path: Path) -> str | None:
    curves = {k: v for k, v in read_metrics(path).items() if "/sys/" not in k}
    if not curves:
        return None
    columns = min(4, len(curves))
    lines = -(-len(curves) // columns)
    figure = Figure(figsize=(3 * columns, 2.4 * lines), layout="constrained")
    for position, (name, points) in enumerate(sorted(curves.items()), 1):
        axes = figure.add_subplot(lines, columns, position)
        axes.plot([s for s, _ in points], [v for _, v in points], linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("step", fontsize=7)
        axes.set_ylabel(name.rpartition("/")[2], fontsize=7)
        axes.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png")
    return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
