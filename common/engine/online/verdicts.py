"""One W&B run for a whole comparison: its verdicts and table, next to the runs of its arms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import load
from common.engine.comparison.cards import difference_text, plot, verdict_word
from common.engine.comparison.spec import MAIN
from common.engine.tracking import Tracker, close_loggers, wandb_logger
from common.engine.workspace import Workspace
from common.registry import config_class

CLAIMS = ("claim", "verdict", "metric", "left", "right", "difference", "paper")
Comparisons = Sequence[Mapping[str, Any]]


def log_comparison(
    project: str, comparisons: Comparisons, overrides: Sequence[str] = ()
) -> Path | None:
    """Log verdicts, table and plot, where the runs of the arms are tracked (`tracking.wandb=online`).

    Args:
        project: slug.
        comparisons: of `common.engine.comparison.compare.compare`.
        overrides: of the command.

    Returns:
        Folder of the W&B run; None where nothing is tracked.
    """
    main = comparisons[0]
    cfg = load(config_class(project), project, main["base"], list(overrides))
    if cfg.tracking.wandb in ("auto", "disabled"):  # as for the runs of a comparison
        return None
    cfg.tracking.group = cfg.tracking.group or f"{project}-{main['base']}-{main['name']}"
    commit = (main["measured"]["commit"] or "unknown")[:12]
    folder = Path(cfg.runs_dir) / project / main["base"] / f"verdict-{commit}"
    workspace = Workspace(folder, project, main["base"])
    workspace.folder(".")
    logger = wandb_logger(cfg, workspace, job_type="compare")
    if logger is None:
        return None
    logger.log_hyperparams({"seeds": main["seeds"], "metric": main["metric"]})
    _log_tables(logger, comparisons, workspace)
    close_loggers([logger], means(comparisons))
    return workspace.path


def means(comparisons: Comparisons) -> dict[str, float]:
    """The summary of the run: mean of the primary metric for each arm and comparison."""
    return {
        "/".join([comparison["name"], arm][comparison["name"] == MAIN :]): comparison["values"][
            arm
        ].mean(comparison["metric"])
        for comparison in comparisons
        for arm in comparison["arms"]
    }


def claim_rows(comparisons: Comparisons) -> list[list[Any]]:
    """A row of `CLAIMS` for each claim."""
    return [
        [
            claim["claim"],
            verdict_word(claim),
            claim["metric"],
            claim["left"],
            claim["right"],
            difference_text(claim),
            claim["paper"],
        ]
        for comparison in comparisons
        for claim in comparison["claims"]
    ]


def arm_rows(comparisons: Comparisons) -> list[list[Any]]:
    """Comparison, arm, seed and primary metric of each run."""
    return [
        [comparison["name"], arm, seed, value]
        for comparison in comparisons
        for arm in comparison["arms"]
        for seed, value in zip(
            comparison["values"][arm].seeds,
            comparison["values"][arm].of(comparison["metric"]),
            strict=True,
        )
    ]


def _log_tables(logger: Tracker, comparisons: Comparisons, workspace: Workspace) -> None:
    image = workspace.path / "comparison.png"
    plot(comparisons, image)
    logger.log_table("claims", columns=list(CLAIMS), data=claim_rows(comparisons))
    columns = ["comparison", "arm", "seed", "value"]
    logger.log_table("runs", columns=columns, data=arm_rows(comparisons))
    verdicts = Counter(verdict_word(c) for comparison in comparisons for c in comparison["claims"])
    caption = ", ".join(f"{count} {word}" for word, count in verdicts.items())
    logger.log_image("comparison", [str(image)], caption=[caption])
