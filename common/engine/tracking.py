"""Loggers: metrics.csv always, Weights & Biases when wanted, same run id after a resume."""

import contextlib
import csv
import io
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from common.config import ExperimentConfig, UserError, first_line, to_dict, without_secrets
from common.engine.terminal import warn
from common.engine.workspace import Workspace
from common.files import replacing

COLUMNS = ("stage", "step", "name", "value")
PATIENCE = 10.0  # seconds that a W&B server is given at the start of a run
UPLOAD_PATIENCE = 60.0  # seconds that the last upload is given; what is missing is on the disk
ARM = "arm:"  # prefix of the tag that `make compare` gives its runs


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
        """The config is in config.yaml."""

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
    """Remove a stage's rows past a step: they are written again by the resumed run."""
    if not path.exists():
        return
    kept = [row for row in _rows(path) if row["stage"] != stage or int(row["step"]) <= step]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Curves of a metrics.csv: ``<stage>/<name>`` -> [(step, value), ...]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(path):
        key = f"{row['stage']}/{row['name']}"
        curves.setdefault(key, []).append((int(row["step"]), float(row["value"])))
    return curves


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics.csv, without what a kill or a full disk has torn."""
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(io.StringIO(whole)) if _is_whole(row)]


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    try:
        int(row["step"])
        float(row["value"])
    except (TypeError, ValueError, KeyError):
        return False
    return set(row) == set(COLUMNS)


def wandb_mode(choice: str) -> str:
    """Resolve ``auto``: online when a key is configured, else offline."""
    if choice != "auto":
        return choice
    netrc_file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    has_key = "WANDB_API_KEY" in os.environ or (
        netrc_file.is_file() and "wandb" in netrc_file.read_text(encoding="utf-8", errors="ignore")
    )
    return "online" if has_key else "offline"


class Tracker(WandbLogger):
    """Lightning's W&B logger, whose failures cost one warning and not the run.

    Attributes:
        lost: whether the run was to be tracked online and is not, or not to its end.
        broken: whether W&B has failed; nothing is sent to it any more.
    """

    lost = False
    broken = False

    @property
    def folder(self) -> Path:
        """What `wandb sync` takes."""
        return Path(self.experiment.dir).parent

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's."""
        self._keep_going(super().log_metrics, *args, **kwargs)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's."""
        self._keep_going(super().log_hyperparams, *args, **kwargs)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's."""
        self._keep_going(super().log_image, *args, **kwargs)

    def finish(self) -> None:
        """End the W&B run and wait for its last upload."""
        import wandb

        self._keep_going(wandb.finish)

    def _keep_going(self, action: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.broken:
            return
        try:
            action(*args, **kwargs)
        except Exception as error:  # of many kinds: its service has died, the disk is full
            self.broken = self.lost = True
            warn(
                f"Weights & Biases: {first_line(error)}; nothing more is sent to it, the run continues"
            )


def check_tracking(cfg: ExperimentConfig) -> None:
    """Refuse what W&B itself would refuse later, in the settings and in its variables.

    Raises:
        UserError: names the setting and what W&B says of it.
    """
    if wandb_mode(cfg.tracking.wandb) == "disabled":
        return
    import wandb

    try:
        settings = wandb.Settings(
            project=cfg.tracking.wandb_project, run_tags=tuple(cfg.tracking.tags)
        )
        settings.update_from_env_vars(dict(os.environ))
    except Exception as error:  # pydantic's and W&B's own
        details: list[Any] = getattr(error, "errors", list)()
        name = ".".join(map(str, details[0]["loc"])) if details else ""
        said = details[0]["msg"] if details else first_line(error)
        raise UserError(
            f"Weights & Biases refuses its settings ({name + ': ' if name else ''}{said}): correct"
            " tracking.* and the variables WANDB_*, or set tracking.wandb=disabled"
        ) from error


def wandb_logger(cfg: ExperimentConfig, workspace: Workspace, owner: bool = True) -> Tracker | None:
    """The W&B logger of a run, or None when disabled; its id is the run's id.

    A server that gives no answer within `PATIENCE` seconds, or that refuses the key, costs one
    warning: the run is tracked offline under the same id.

    Args:
        cfg: the run's.
        workspace: the run's folder.
        owner: whether this process tracks; the other processes of a run do not connect.
    """
    mode = wandb_mode(cfg.tracking.wandb)
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    # A service inherited from a parent process still holds the run of a job that was killed.
    os.environ.pop("WANDB_SERVICE", None)
    logger = _tracker(cfg, workspace, mode == "offline")
    if not owner or mode != "online" or os.environ.get("WANDB_MODE", "online") != "online":
        return logger
    try:
        logger.experiment  # noqa: B018 - connects now, not at the first step
    except Exception as error:  # of several kinds: no answer, refused, a broken service
        import wandb

        address = without_secrets(wandb.setup().settings.base_url)
        with contextlib.suppress(Exception):
            wandb.teardown()  # its service would refuse the same id
        logger = _tracker(cfg, workspace, True)
        logger.lost = True
        warn(
            f"Weights & Biases: {address} takes no run ({first_line(error)}); this run is tracked offline in"
            f" {workspace.path / 'wandb'}, training continues"
        )
    return logger


def _tracker(cfg: ExperimentConfig, workspace: Workspace, offline: bool) -> Tracker:
    import wandb

    settings = wandb.Settings(init_timeout=PATIENCE, finish_timeout=UPLOAD_PATIENCE)
    if offline:
        settings.mode = "offline"
    labels = describe(cfg, workspace)
    tags = [tag for tag in cfg.tracking.tags if not tag.startswith(ARM)]
    project_config = f"{workspace.project}-{workspace.config}"
    logger = Tracker(
        project=cfg.tracking.wandb_project,
        entity=cfg.tracking.entity,
        name=cfg.tracking.name or f"{project_config}-{workspace.run_id}",
        id=workspace.run_id,
        save_dir=str(workspace.folder(".")),
        offline=offline,
        resume="allow",
        # panels group runs by the arm
        config={
            **json.loads(without_secrets(json.dumps(to_dict(cfg)))),
            **labels,
            "seed": cfg.seed,
        },
        group=cfg.tracking.group or project_config,
        job_type="train",
        tags=[*(f"{name}:{value}" for name, value in labels.items()), *tags],
        settings=settings,
    )
    logger._wandb_init.pop("anonymous", None)  # W&B warns of the option, whatever its value
    return logger


def describe(cfg: ExperimentConfig, workspace: Workspace) -> dict[str, str]:
    """Labels of a run: project, config, seed; family and arm where it has one."""
    sections = [type(getattr(cfg, section.name)) for section in fields(cfg)]
    homes = [c.__module__.split(".") for section in sections for c in section.__mro__]
    family = [home[2] for home in homes if home[:2] == ["common", "families"]]
    arms = [tag[len(ARM) :] for tag in cfg.tracking.tags if tag.startswith(ARM)]
    return {
        "project": workspace.project,
        **({"family": family[0]} if family else {}),
        **({"arm": arms[0]} if arms else {}),
        "config": workspace.config,
        "seed": str(cfg.seed),
    }


def open_loggers(cfg: ExperimentConfig, workspace: Workspace, owner: bool = True) -> list[Tracker]:
    """The loggers of a whole run: W&B, where it is wanted."""
    logger = wandb_logger(cfg, workspace, owner)
    return [] if logger is None else [logger]


def close_loggers(loggers: Sequence[Tracker], metrics: Mapping[str, float]) -> None:
    """Log the final metrics and finish the run; say how to upload what was kept offline."""
    for logger in loggers:
        logger.log_metrics({f"test/{k}": v for k, v in metrics.items()})
        logger.finalize("success")
        folder = logger.folder
        logger.finish()
        if logger.lost:
            command = f"wandb sync {shlex.quote(str(folder))}"
            print(f"not all of it is online; to upload it: {command}")  # noqa: T201
