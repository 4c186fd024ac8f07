"""Evaluation reports: ``metrics.json`` (flat name -> number) and a markdown table.

A metric ``m`` may come with ``m_chance``, the value of a system that knows nothing.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from common.files import write_text

CHANCE = "_chance"


def markdown_table(metrics: Mapping[str, SupportsFloat]) -> str:
    """Metrics as a markdown table, in the given order, chance values in a column alongside.

    Args:
        metrics: flat name -> number (also 0-d tensors).

    Returns:
        The table with a final newline; NaN and infinity are shown as "undefined", a missing
        chance value as an empty cell.

    Raises:
        ValueError: a name that would break the table.

    >>> print(markdown_table({"top1": 0.5, "top1_chance": 0.1}), end="")
    | metric | value | chance |
    |---|---:|---:|
    | top1 | 0.5000 | 0.1000 |
    """
    values = _numbers(metrics)
    lines = ["| metric | value | chance |", "|---|---:|---:|"]
    for name, value in values.items():
        if name.endswith(CHANCE) and name.removesuffix(CHANCE) in values:
            continue
        chance = values.get(name + CHANCE)
        shown = "" if chance is None else four_digits(chance)
        lines.append(f"| {name} | {four_digits(value)} | {shown} |")
    return "\n".join(lines) + "\n"


def write_report(
    metrics: Mapping[str, SupportsFloat], folder: Path, *, title: str = "Evaluation"
) -> None:
    """Write ``metrics.json`` and ``metrics.md`` into ``folder``, each in one step.

    Args:
        metrics: flat name -> number; NaN and infinity become ``null`` in the JSON file.
        folder: created when missing.
        title: heading of the markdown file.

    Raises:
        ValueError: no metrics, or a name that would break the table.
    """
    table = markdown_table(metrics)
    finite = {k: v if math.isfinite(v) else None for k, v in _numbers(metrics).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "metrics.json", json.dumps(finite, indent=2, allow_nan=False) + "\n")
    write_text(folder / "metrics.md", f"# {title}\n\n{table}")


def four_digits(value: float | None) -> str:
    """A number with four significant digits, whole ones from a thousand on.

    >>> [four_digits(x) for x in (0.5, 0.00123456, 12.3456, 51200.0, None)]
    ['0.5000', '0.001235', '12.35', '51200', 'undefined']
    """
    if value is None or not math.isfinite(value):
        return "undefined"
    if 1e3 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:#.4g}".rstrip(".")


def _numbers(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    if not metrics:
        raise ValueError("the report has no metrics")
    for name in metrics:
        if not name or "|" in name or "\n" in name:
            raise ValueError(f"metric name {name!r} cannot stand in a table")
    return {name: float(value) for name, value in metrics.items()}
