"""What a report shows of a project: its latest runs, their evaluations, its published comparison."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from common.config import UserError, load
from common.damage import reading
from common.engine.comparison.cards import markdown
from common.engine.comparison.references import BASELINES_FILE, comparison_of, headline, own_rows
from common.engine.comparison.results import read_results, result_path
from common.engine.lifecycle.find import OWNED
from common.engine.lifecycle.run import intact, read_meta
from common.engine.lifecycle.settings import leaves, own_overrides, resolved
from common.engine.tracking import read_metrics
from common.engine.trained import EVALUATION
from common.engine.workspace import NOTES, read_json
from common.registry import config_class

MAX_RUNS = 6  # latest runs shown per project
MAX_NOTES = 30  # lines
CURVES = {  # titles of what every stage logs
    "train/loss": "Training loss",
    "train/lr": "Learning rate",
    "train/grad_norm": "Gradient norm",
}


def project_contents(slug: str, runs: Path) -> dict[str, Any]:
    """A project's comparison and latest runs.

    Args:
        slug: of the project.
        runs: folder of all runs.

    Returns:
        ``slug``, ``runs`` (the latest, newest first), ``count`` (of all), ``evaluations`` (of
        checkpoint files and exported folders), ``comparison`` (None without a published result)
        and ``sweeps``.
    """
    folders = intact(p.parent for p in sorted((runs / slug).glob("*/*/meta.json")))
    folders = [f for f in folders if not f.name.startswith(OWNED)]
    latest = sorted(folders, key=lambda f: (f / "meta.json").stat().st_mtime)[::-1][:MAX_RUNS]
    evaluated = [p.parent for p in sorted((runs / slug).glob(f"*/*/{EVALUATION}"))[-MAX_RUNS:]]
    return {
        "slug": slug,
        "comparison": _comparison(slug),
        "count": len(folders),
        "runs": [_run(slug, folder, f"{slug}-run-{i}") for i, folder in enumerate(latest, 1)],
        "evaluations": [
            _evaluation(slug, folder, f"{slug}-evaluation-{i}")
            for i, folder in enumerate(reversed(evaluated), 1)
        ],
        "sweeps": [_sweep(path) for path in sorted((runs / slug).glob("*/sweep/sweep.md"))],
    }


def _sweep(path: Path) -> dict[str, Any]:
    plots = sorted(path.parent.glob("*.png"))
    return {
        "markdown": path.read_text(encoding="utf-8"),
        "images": [_image(plot, path.parent) for plot in plots],
    }


def _comparison(slug: str) -> dict[str, Any] | None:
    comparisons = read_results(slug)
    if not comparisons:
        return None
    plot = result_path(slug).with_suffix(".png")
    return {
        "version": comparisons[0]["measured"]["version"],
        "markdown": markdown(comparisons),
        "image": _data_uri(plot.read_bytes()) if plot.exists() else None,
    }


def _run(slug: str, folder: Path, anchor: str) -> dict[str, Any]:
    meta, curves = read_meta(folder), folder / "metrics.csv"
    evaluations = sorted(folder.glob(f"eval-*/{EVALUATION}"), reverse=True)
    return {
        **_results(slug, folder.parent.name, folder, anchor),
        "meta": meta,
        "settings": changed_settings(meta, folder.parent.name),
        "curves": curve_plots(read_metrics(curves)) if curves.exists() else [],
        "evaluations": [
            _evaluation(slug, path.parent, f"{anchor}-evaluation-{i}")
            for i, path in enumerate(evaluations[:MAX_RUNS], 1)
        ],
    }


def _evaluation(slug: str, folder: Path, anchor: str) -> dict[str, Any]:
    about = read_json(folder / EVALUATION)
    own = any(word.startswith("eval.own=") for word in about["overrides"])
    return {**_results(slug, about["config"], folder, anchor, own), "about": about}


def _results(
    slug: str, config: str, folder: Path, anchor: str, own: bool = False
) -> dict[str, Any]:
    """What a run and an evaluation, perhaps of a user's data, have in common."""
    metrics, baselines = _read(folder / "metrics.json"), _read(folder / BASELINES_FILE)
    galleries = sorted((folder / "gallery").glob("*/gallery.json"))
    plots = sorted((folder / "plots").glob("*.png"))
    return {
        "name": folder.name,
        "config": config,
        "anchor": anchor,
        "metrics": metrics,
        "headline": (own_rows if own else headline)(
            metrics, baselines, comparison_of(slug, config)
        ),
        "notes": _notes(folder),
        "plots": [{"name": p.stem, "image": _image(p, folder)} for p in plots],
        "galleries": [_gallery(path, anchor, folder) for path in galleries],
    }


def _notes(folder: Path) -> list[str]:
    """The last lines that a run or an evaluation noted, such as what it left out."""
    path = folder / NOTES
    return path.read_text(encoding="utf-8").splitlines()[-MAX_NOTES:] if path.exists() else []


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def changed_settings(meta: Mapping[str, Any], config: str) -> list[tuple[str, Any, Any]]:
    """Settings of a run that differ from its config file: name, in the file, in the run.

    Args:
        meta: the run's meta.json.
        config: name; what was typed is listed where the project no longer has it.
    """
    try:
        cfg = load(config_class(meta["project"]), meta["project"], config)
    except (KeyError, UserError):
        typed = own_overrides(meta) if "overrides" in meta else []
        return [(key, "", value) for key, _, value in (word.partition("=") for word in typed)]
    before, now = leaves(resolved(cfg)), leaves(meta.get("resolved") or {})
    changed = [key for key in now if now[key] != before.get(key)]
    return [(k, before.get(k), now[k]) for k in changed if not k.startswith("tracking.")]


def _image(path: Path, folder: Path) -> str:
    """An image of a run, to embed.

    Raises:
        UserError: it is outside of the run's folder: a report would publish any file.
    """
    place = path.resolve()
    if not place.is_file() or not place.is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is not an image inside the run {folder}, so the report does not show it: remove"
            " its entry, or the run"
        )
    return _data_uri(place.read_bytes())


def _gallery(path: Path, anchor: str, folder: Path) -> dict[str, Any]:
    def embed(item: dict[str, str]) -> dict[str, str]:
        if "image" not in item:
            return item
        return {"image": _image(path.parent / item["image"], folder)}

    with reading(path, "gallery of queries and results"):
        rows: list[dict[str, Any]] = [
            {
                "query": embed(row["query"]),
                "results": [{**r, "item": embed(r["item"])} for r in row["results"]],
            }
            for row in read_json(path)
        ]
    shown = [x for row in rows for x in (row["query"], *(r["item"] for r in row["results"]))]
    judged = [row["results"][0]["correct"] for row in rows if "correct" in _first(row)]
    name = path.parent.name
    return {
        "name": name,
        "anchor": f"{anchor}-{re.sub(r'[^0-9A-Za-z]+', '-', name)}",
        "rows": rows,
        "text": all("text" in x for x in shown),
        "right": f"{sum(judged)} of {len(judged)} right at rank 1" if judged else "",
    }


def _first(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row's best result; nothing where there is none."""
    return next(iter(row["results"]), {})


def curve_plots(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict[str, str]]:
    """A plot of each curve, the training loss first.

    Args:
        curves: ``<stage>/<name>`` -> [(step, value), ...].

    Returns:
        ``title`` and ``image`` of each.
    """
    shown = {name: points for name, points in curves.items() if "/sys/" not in name}
    stages = {name.partition("/")[0] for name in shown}
    plots = []
    for name in sorted(shown, key=_place):
        stage, _, metric = name.partition("/")
        title = f"{curve_title(metric)} ({stage})" if len(stages) > 1 else curve_title(metric)
        plots.append({"title": title, "image": _curve(title, shown[name])})
    return plots


def _place(name: str) -> int:
    """Where a curve comes: the loss, what the project logs, learning rate and gradient norm."""
    metric = name.partition("/")[2]
    return 0 if metric == "train/loss" else 2 if metric in CURVES else 1


def _curve(title: str, points: Sequence[tuple[int, float]]) -> str:
    figure = Figure(figsize=(4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([step for step, _ in points], [value for _, value in points], linewidth=1.4)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return _data_uri(buffer.getvalue())


def curve_title(metric: str) -> str:
    """A logged name in words.

    >>> [curve_title(n) for n in ("train/loss", "val/sts_spearman", "train/queue_accuracy")]
    ['Training loss', 'Validation: sts spearman', 'Training: queue accuracy']
    """
    part, _, name = metric.partition("/")
    words = {"train": "Training: ", "val": "Validation: "}.get(part, f"{part}: ")
    return CURVES.get(metric, words + name.replace("_", " ").replace("/", " "))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
