"""Pictures of continual learning: task matrix as a heat map, curves over tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def task_heat_map(matrix: Tensor, names: Sequence[str], title: str = "") -> Any:
    """Accuracy on every task (columns) after every task (rows).

    Args:
        matrix: (T, T); NaN cells stay empty.
        names: T labels of the tasks.
        title: printed above.

    Returns:
        A matplotlib figure for ``Workspace.figure``.
    """
    from matplotlib.figure import Figure

    size = 1.6 + 0.75 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix.numpy(), vmin=0, vmax=1, cmap="viridis")
    for k, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            if value == value:
                colour = "white" if value < 0.6 else "black"
                axes.text(j, k, f"{100 * value:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [f"after {k + 1}" for k in range(len(names))], fontsize=8)
    axes.set_xlabel("test items of the task")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, label="accuracy")
    return figure


def task_curves(curves: Mapping[str, Sequence[float]], ylabel: str, title: str = "") -> Any:
    """Values after each task, one line per name.

    Args:
        curves: name -> T values; NaN leaves a gap.
        ylabel: of the vertical axis.
        title: printed above.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=name)
    axes.set_xlabel("after task")
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)
    return figure
