"""One W&B run for a whole comparison: its verdicts and table, beside the runs of its arms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import load
from common.engine.comparison.pages import verdict_counts
from common.engine.comparison.results import comparisons, interval_text, plot, verdict_word
from common.engine.tracking import Tracker, close_loggers, wandb_logger
from common.engine.workspace import Workspace
from common.registry import config_class

CLAIMS = ("claim", "verdict", "metric", "left", "right", "interval", "paper")


def log_comparison(
    project: str, result: Mapping[str, Any], overrides: Sequence[str] = ()
) -> Path | None:
    """Log verdicts, table and plot, if runs of the arms are tracked (`tracking.wandb=online`).

    Args:
        project: slug.
        result: of `common.engine.comparison.compare.compare`.
        overrides: of the command.

    Returns:
        Folder of the W&B run; None where nothing is tracked.
    """
    cfg = load(config_class(project), project, result["base"], list(overrides))
    if cfg.tracking.wandb in ("auto", "disabled"):  # as for the runs of a comparison
        return None
    folder = Path(cfg.runs_dir) / project / result["base"] / f"verdict-{result['code'][:12]}"
    workspace = Workspace(folder, project, result["base"])
    workspace.folder(".")
    logger = wandb_logger(cfg, workspace, job_type="compare")
    if logger is None:
        return None
    logger.log_hyperparams({"seeds": result["seeds"], "metric": result["metric"]})
    _log_tables(logger, result, workspace)
    close_loggers([logger], means(result))
    return workspace.path


def means(result: Mapping[str, Any]) -> dict[str, float]:
    """The summary of the run: mean of the primary metric for each arm and comparison."""
    return {
        "/".join(filter(None, [comparison.get("name", ""), arm])): entry["mean"]
        for comparison in comparisons(result)
        for arm, entry in comparison["arms"].items()
    }


def claim_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """A row of `CLAIMS` for each claim."""
    return [
        [
            claim["claim"],
            verdict_word(claim),
            claim.get("metric", own["metric"]),
            *claim["here"],
            interval_text(claim),
            claim.get("paper", ""),
        ]
        for own in comparisons(result)
        for claim in own["claims"]
    ]


def arm_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Comparison, arm, seed and primary metric of each run."""
    return [
        [own.get("name", ""), arm, seed, value]
        for own in comparisons(result)
        for arm, entry in own["arms"].items()
        for seed, value in zip(own["seeds"], entry["values"], strict=True)
    ]


def _log_tables(logger: Tracker, result: Mapping[str, Any], workspace: Workspace) -> None:
    picture = workspace.path / "comparison.png"
    plot(result, picture)
    logger.log_table("claims", columns=list(CLAIMS), data=claim_rows(result))
    logger.log_table("runs", columns=["comparison", "arm", "seed", "value"], data=arm_rows(result))
    logger.log_image("comparison", [str(picture)], caption=[verdict_counts(result)])
