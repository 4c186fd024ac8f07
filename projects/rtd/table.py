"""One table of several runs: what RTD adds to each host and backbone, and its cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.config import UserError
from common.engine.workspace import read_json

HEAD = ("host", "backbone", "metric", "before", "after", "gain")
COST = ("host", "backbone", "part", "trainable parameters", "steps", "seconds")


def before_after(runs: Sequence[Path]) -> str:
    """Markdown of the headline metrics before and after, and of the cost, a run after the other.

    Raises:
        UserError: a folder that has no finished run of this project.
    """
    rows, costs = [], []
    for run in runs:
        config, metrics = _read(run)
        who = [config["phi"]["host"], backbone(config)]
        for name in headlines(metrics):
            old, new = metrics[f"before_{name}"], metrics[name]
            rows.append([*who, name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"])
        steps = {
            "host": (
                config["phi"]["steps"] if config["phi"]["weights"] is None else "-"
            ),  # trained by another run
            "rtd": config["trainer"]["max_steps"] if config["rtd"]["enabled"] else "-",
        }
        for part in ("host", "rtd"):
            seconds = metrics.get(f"cost_{part}_seconds")
            number = f"{metrics[f'cost_{part}_parameters']:,.0f}"
            spent = "not measured" if seconds is None else f"{seconds:.0f}"
            costs.append([*who, part, number, str(steps[part]), spent])
    return f"{_markdown(HEAD, rows)}\n\n{_markdown(COST, costs)}"


def headlines(metrics: Mapping[str, float]) -> list[str]:
    """The figures that a table shows, of those that were measured both times."""
    columns = (
        "recall_at_1",
        "fashioniq_mean",
        "cirr_recall_at_1",
        "circo_map_at_5",
        "genecis_recall_at_1",
    )
    return [name for name in columns if name in metrics and f"before_{name}" in metrics]


def backbone(config: Mapping[str, Any]) -> str:
    """Name of the CLIP."""
    model = config["model"]
    if model["pretrained"] != "random":
        return str(model["pretrained"])
    return str(model["open_clip"]) if isinstance(model["open_clip"], str) else "random"


def _read(run: Path) -> tuple[dict[str, Any], dict[str, float]]:
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        metrics = read_json(run / "metrics.json")
        return {k: config[k] for k in ("phi", "model", "trainer", "rtd")}, metrics
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{run} has no finished run of this project: {error}") from error


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
