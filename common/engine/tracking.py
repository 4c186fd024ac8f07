"""Loggers: metrics.csv always, Weights & Biases when wanted, same run id after a resume."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from common.config import ExperimentConfig, to_dict
from common.engine.workspace import Workspace

COLUMNS = ("stage", "step", "name", "value")


class MetricsCSV(Logger):
    """Append-only metrics.csv with the columns stage, step, name, value (one row per value).

    Args:
        path: the file.
        stage: name written in the first column.
    """

    def __init__(self, path: Path, stage: str) -> None:
        super().__init__()
        self.path, self.stage = path, stage

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning asks for one."""
        return "0"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config lies in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row per value."""
        rows = [(self.stage, step, k, repr(float(v))) for k, v in metrics.items() if k != "epoch"]
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerows(rows)


def drop_rows_after(path: Path, stage: str, step: int) -> None:
    """Remove a stage's rows past a step: they are written again by the continued run."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    kept = [r for r in rows if r["stage"] != stage or int(r["step"] or 0) <= step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
    temporary.replace(path)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a metrics.csv: ``<stage>/<name>`` -> [(step, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = f"{row['stage']}/{row['name']}"
            curves.setdefault(key, []).append((int(row["step"]), float(row["value"])))
    return curves


def wandb_mode(choice: str) -> str:
    """Resolve ``auto``: online when a key is configured, else offline."""
    if choice != "auto":
        return choice
    netrc = Path.home() / ".netrc"
    known = "WANDB_API_KEY" in os.environ or (
        netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="ignore")
    )
    return "online" if known else "offline"


def wandb_logger(cfg: ExperimentConfig, workspace: Workspace) -> Logger | None:
    """The W&B logger of a run, or None when disabled; its id is the run's id."""
    mode = wandb_mode(cfg.tracking.wandb)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    # A service inherited from a parent process still holds the run of a job that was killed.
    os.environ.pop("WANDB_SERVICE", None)
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(
        project=cfg.tracking.wandb_project,
        name=f"{workspace.project}-{workspace.config}-{workspace.run_id}",
        id=workspace.run_id,
        save_dir=str(workspace.folder(".")),
        offline=mode == "offline",
        resume="allow",
        config=to_dict(cfg),
        tags=[workspace.project, workspace.config, *cfg.tracking.tags],
    )
    logger._wandb_init.pop("anonymous", None)  # W&B warns of the option, whatever its value
    return logger


def open_loggers(cfg: ExperimentConfig, workspace: Workspace) -> list[Logger]:
    """The loggers of a whole run: W&B, where it is wanted."""
    logger = wandb_logger(cfg, workspace)
    return [] if logger is None else [logger]


def close_loggers(loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
    """Log the final metrics and finish the run."""
    for logger in loggers:
        logger.log_metrics({f"test/{k}": v for k, v in metrics.items()})
        logger.finalize("success")
    if loggers:
        import wandb

        wandb.finish()
