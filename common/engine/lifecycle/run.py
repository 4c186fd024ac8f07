"""A run: its folder, settings, provenance, state and lock."""

import contextlib
import datetime
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from common import __version__
from common.config import ExperimentConfig, UserError, first_line, to_yaml
from common.engine.lifecycle import lock
from common.engine.lifecycle.settings import own_overrides, resolved
from common.engine.provenance import code_state
from common.engine.terminal import warn
from common.engine.workspace import Workspace, cpu_name, read_json, write_json
from common.failures import explain
from common.files import write_text

PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "triton",
    "lightning",
    "transformers",
    "open_clip_torch",
    "timm",
    "numpy",
    "wandb",
    "omegaconf",
)
State = Literal["created", "running", "finished", "failed", "stopped"]
Event = Literal["started", "finished"]
RECORDED = ("project", "config", "overrides", "started")  # what every meta.json has


class DamagedRun(UserError):
    """A run whose meta.json is not what was written."""


class Run:
    """One run, ``runs/<project>/<config>/<run-id>/``.

    `meta.json` is its record. A context manager: inside the block the run is locked,
    and how the block ends becomes its state.

    Args:
        path: the folder.
        project: slug.
        config: config name.
        owner: whether this process writes; the other processes of a run on several devices only
            read.

    Attributes:
        clock: when this process started to work on the run, by ``time.monotonic``.
    """

    def __init__(self, path: Path, project: str, config: str, owner: bool = False) -> None:
        self.path, self.project, self.config, self.owner = path, project, config, owner
        self.clock = time.monotonic()
        self._is_open = False
        self._earlier_seconds = 0.0

    @property
    def meta(self) -> dict[str, Any]:
        """The content of meta.json; `DamagedRun` when it is damaged."""
        return read_meta(self.path)

    def record(self, **values: Any) -> None:
        """Merge values into meta.json."""
        if self.owner:
            write_json(self.path / "meta.json", {**self.meta, **values})

    @property
    def state(self) -> State:
        """Where the run is: created (no step yet), running, finished, failed, or stopped.

        A run whose process was killed is stopped, whatever it last wrote.
        """
        meta = self.meta
        state: State = meta.get("state") or ("finished" if "finished" in meta else "stopped")
        alive = state in ("created", "running") and lock.held(self.path)
        return state if alive or state in ("finished", "failed") else "stopped"

    @property
    def has_steps(self) -> bool:
        """Whether it has made a step."""
        return "begun" in self.meta or any(self.path.glob("checkpoints/*/*"))

    @property
    def seconds(self) -> float:
        """Wall time so far, of all processes that have worked on the run one after the other."""
        return round(self._earlier_seconds + time.monotonic() - self.clock, 1)

    def settings(self) -> dict[str, Any]:
        """All values of its config.

        Raises:
            UserError: the run is of a version that did not record them.
        """
        settings: dict[str, Any] | None = self.meta.get("resolved")
        if settings is None:
            raise UserError(
                f"{self.path} was made by a version before 0.1.0, whose runs this one does not"
                " read: train again, or use the version that made it"
            )
        return settings

    def workspace(self, name: str = ".", sinks: Iterable[Any] = ()) -> Workspace:
        """Where an evaluation writes: the run's folder, or a folder in it.

        Args:
            name: of the folder.
            sinks: loggers that get figures too.
        """
        place = Workspace(self.path / name, self.project, self.config, trained=self.path)
        place.figure_sinks = list(sinks)
        return place

    def create(
        self, cfg: ExperimentConfig, overrides: Sequence[str], scale: Mapping[str, Any]
    ) -> None:
        """Write config.yaml and meta.json of a new run, which this process has locked.

        Args:
            cfg: all settings.
            overrides: those of the command line.
            scale: world size and what follows from it.

        Raises:
            UserError: a run with this id exists.
        """
        if not self.owner:
            return
        if (self.path / "meta.json").exists():
            raise UserError(
                f"{self.path} exists; choose another run_id, or resume={self.path.name}"
            )
        self._write_config(cfg)
        origin = provenance(cfg, self.project, self.config, overrides)
        order = {"started": self._next("started")}
        meta = {**origin, **scale, "resolved": resolved(cfg), "state": "created", "order": order}
        write_json(self.path / "meta.json", meta)
        self._is_open = True

    def resume(
        self,
        cfg: ExperimentConfig,
        overrides: Sequence[str],
        changes: Mapping[str, Sequence[Any]],
        scale: Mapping[str, Any],
    ) -> None:
        """Note that the run, which this process has locked, is resumed.

        Args:
            cfg: with the changed values.
            overrides: of this command.
            changes: ``{key: [before, now]}``.
            scale: as in `create`; the changes may alter it.
        """
        if not self.owner:
            return
        meta = self.meta
        entry = {"time": now(), **code_state(), "changes": dict(changes)}
        # 0.1.0 had another entry for a run that was not finished
        self._earlier_seconds = meta.pop("earlier_seconds", meta.get("wall_seconds") or 0.0)
        if changes:
            words = [*own_overrides(meta), *own_overrides({"overrides": overrides})]
            meta["overrides"] = words
            self._write_config(cfg)
        meta = {k: v for k, v in meta.items() if k not in ("fitted", "finished", "error")}
        meta |= {**scale, "resolved": resolved(cfg), "resumed": [*meta.get("resumed", []), entry]}
        meta["state"] = "running" if self.has_steps else "created"
        meta["order"] = {"started": self._next("started")}
        write_json(self.path / "meta.json", meta)
        self._is_open = True

    def note_step(self) -> None:
        """Note that a step was made: from the first one on there is something to resume."""
        if self.owner and "begun" not in (meta := self.meta):
            write_json(self.path / "meta.json", {**meta, "state": "running", "begun": now()})

    def finish(self, **values: Any) -> None:
        """Note that all is done, with further entries of meta.json."""
        order = {"started": order_of(self.meta, "started"), "finished": self._next("finished")}
        self.record(
            **values, wall_seconds=self.seconds, state="finished", finished=now(), order=order
        )

    def fail(self, reason: str) -> None:
        """Note that the run has failed, for a process that leaves at once."""
        self.record(wall_seconds=self.seconds, error=reason, state="failed")

    def __enter__(self) -> "Run":
        if self.owner:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire(self.path)
                for rest in self.path.glob(".*.tmp"):  # of a process that was killed while writing
                    rest.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot write in {self.path}: {error.strerror}") from error
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if error is not None and self._is_open:
                if not self.path.is_dir():
                    raise UserError(
                        f"{self.path} was deleted or moved while its run worked: start the command"
                        " again"
                    ) from error
                self._record_end(error)
        finally:
            if self.owner:
                lock.release(self.path)
        if isinstance(error, Exception) and (reason := explain(error)) is not None:
            goes_on = self._is_open and self.has_steps
            hint = f"; the run goes on with resume={self.path.name}" if goes_on else ""
            raise UserError(f"{reason}{hint}") from error

    def _next(self, event: Event) -> int:
        """One more than the number of this event in any run of the same config."""
        numbers = [0]
        for path in self.path.parent.glob("*/meta.json"):
            with contextlib.suppress(DamagedRun):
                numbers.append(order_of(read_meta(path.parent), event))
        return max(numbers) + 1

    def _record_end(self, error: BaseException) -> None:
        stopped = isinstance(error, SystemExit | KeyboardInterrupt)
        values: dict[str, Any] = {"wall_seconds": self.seconds}
        if not stopped:
            values["error"] = first_line(error)
        try:
            self.record(state="stopped" if stopped else "failed", **values)
        except OSError as full:  # the reason of the end must not be hidden by a second one
            warn(f"{self.path}: the state could not be written ({full.strerror})")

    def _write_config(self, cfg: ExperimentConfig) -> None:
        write_text(self.path / "config.yaml", to_yaml(cfg))


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of a run's meta.json.

    Raises:
        DamagedRun: it is not the record of a run; says what to do.
    """
    path = folder / "meta.json"
    try:
        content = read_json(path)
        missing = RECORDED if not isinstance(content, dict) else set(RECORDED) - content.keys()
        if not missing:
            return content  # type: ignore[no-any-return]
        reason = f"{path} is not a record of a run"
    except UserError as error:
        reason = str(error)
    raise DamagedRun(f"{reason}: restore it from a copy, or delete {folder} if you can do without")


def order_of(meta: Mapping[str, Any], event: Event) -> int:
    """Number of a run in the order in which those of its config started or finished.

    Right also where the clock was set back, as it is at the end of daylight saving time. 0 for a
    run of 0.1.0, which has none.
    """
    order = meta.get("order")
    number = order.get(event) if isinstance(order, dict) else None
    return number if isinstance(number, int) else 0


def intact(folders: Iterable[Path]) -> list[Path]:
    """The run folders whose meta.json can be read; the others are reported and left out."""
    readable = []
    for folder in folders:
        try:
            read_meta(folder)
            readable.append(folder)
        except DamagedRun as error:
            warn(f"left out: {error}")
    return readable


def provenance(
    cfg: ExperimentConfig, project: str, config: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Commit, versions, hardware and seed of this process."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "project": project,
        "config": config,
        "overrides": list(overrides),
        "seed": cfg.seed,
        "version": __version__,
        **code_state(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu},
        "command": " ".join(["python -m common.cli", *sys.argv[1:]]),
        "started": now(),
    }


def now() -> str:
    """Local time, for people; runs are ordered by their numbers."""
    return datetime.datetime.now().isoformat(timespec="milliseconds")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
