"""Checkpoints: written completely or not at all, verified, loaded safely."""

import math
import pickle
import re
import shutil
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from common.config import UserError
from common.engine.workspace import read_json, write_json
from common.files import refuse_special, replacing, sync

NAME = re.compile(r"step-(\d+)\.ckpt")
VALIDATIONS = "validations.json"


class Damaged(UserError):
    """A checkpoint whose content differs from what was written."""


class RunCheckpoint(Checkpoint):
    """Save every n optimiser steps under ``step-<n>.ckpt``, keep the latest k and the best.

    The best has the best value that validations gave, nan aside; while all are nan there is none.

    A file is complete or absent (`write`). A step is saved before it is validated, so the values
    of validations have a file of their own, ``validations.json``: a run that is resumed from a
    step knows all values up to it, and `newest_intact` passes over a step whose validation was cut
    off.

    Args:
        folder: where the files go.
        every: optimiser steps between checkpoints.
        keep: number of latest checkpoints to keep; with a monitor at least two, as a run is not
            resumed from one whose validation was cut off.
        monitor: validation key that selects best.ckpt; None: no best.
        mode: whether larger (max) or smaller (min) is better.
        curves: where validations are logged; synced before one counts.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        curves: Path | None = None,
    ) -> None:
        self.folder, self.every, self.curves = folder, every, curves
        self.keep = max(1 if monitor is None else 2, keep)
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.values: dict[int, float] = {}  # step -> monitored value
        self.last_saved, self.is_noted = -1, True
        self.written = 0.0  # when the last file was complete, by time.perf_counter

    @property
    def best(self) -> float | None:
        """The best value so far, nan aside."""
        numbers = [self.sign * v for v in self.values.values() if not math.isnan(v)]
        return self.sign * max(numbers) if numbers else None

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Do not save again the step that was just loaded; read what was validated before it."""
        if trainer.is_global_zero:  # of a process that was killed while writing
            for rest in self.folder.glob("*.tmp"):
                remove(rest)
            for former in self.folder.glob("*.former"):
                bring_back(former)
        self.last_saved = trainer.global_step
        self.values = {k: v for k, v in validations(self.folder).items() if k <= self.last_saved}

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Save at multiples of `every`."""
        step = trainer.global_step
        if step % self.every == 0 and step != self.last_saved:
            self.save(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Keep the best weights by the monitored value."""
        if self.monitor is None or trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            logged = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"monitor '{self.monitor}' was not logged; logged: {logged}")
        before, now = self.best, float(value)
        self.values[trainer.global_step] = now
        if not math.isnan(now) and (before is None or self.sign * now > self.sign * before):
            self._write(trainer, self.folder / "best.ckpt")
        wait_for_shards(trainer)
        self.is_noted = False  # after the weights: a value that is known has its file

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Note the last validation, which the trainer logs after `on_validation_end`."""
        if self.is_noted:
            return
        self.is_noted = True
        if trainer.is_global_zero:
            # a run is not resumed before a step that counts as validated: its rows must be there
            if self.curves is not None and self.curves.exists():
                sync(self.curves)
            write_json(self.folder / VALIDATIONS, {str(k): v for k, v in self.values.items()})

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Save the final state."""
        self.on_train_batch_start(trainer)
        if trainer.global_step != self.last_saved:
            self.save(trainer, module)
        wait_for_shards(trainer)
        self._prune(trainer)
        if self.values and self.best is None:
            warnings.warn(
                f"{self.monitor} was nan whenever it was validated: the last weights are kept",
                stacklevel=2,
            )

    def save(self, trainer: Trainer, module: Any) -> Path:
        """Save now; all ranks must call it. Returns the path.

        A checkpoint in shards is written while training goes on, see `wait_for_shards`.
        """
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        self.last_saved = trainer.global_step
        self._write(trainer, path)
        self._prune(trainer)
        return path

    def _prune(self, trainer: Trainer) -> None:
        """Leave the latest ones; of shards, one more while the newest is being written."""
        if trainer.is_global_zero:
            # a run that is resumed from an earlier step has later ones, which do not count
            done = [p for p in saved_checkpoints(self.folder) if step_of(p) <= self.last_saved]
            for old in done[: -self.keep]:
                remove(old)

    def _write(self, trainer: Trainer, path: Path) -> None:
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(path, weights_only=False)
        self.written = time.perf_counter()


def wait_for_shards(trainer: Trainer) -> None:
    """Until a checkpoint that processes write in the background is whole.

    Raises:
        UserError: it could not be written.
    """
    writer = getattr(trainer.strategy, "writer", None)
    if writer is not None:
        writer.wait()


def remove(path: Path) -> None:
    """Delete a checkpoint, a file or a folder of shards."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bring_back(former: Path) -> None:
    """Rename a folder of shards whose successor had not replaced it when the process died."""
    path = former.with_suffix("")
    if path.exists():
        shutil.rmtree(former)
    else:
        former.replace(path)


class WholeFiles(CheckpointIO):
    """How the trainer writes and reads checkpoint files: completely or not at all."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write; UserError when the disk is full."""
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a file that `newest_intact` has verified.

        Raises:
            UserError: the checkpoint is in shards.
        """
        if Path(path).is_dir():
            raise UserError(f"{path} is in shards: resume the run with trainer.strategy=fsdp")
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Delete."""
        Path(path).unlink(missing_ok=True)


def write(content: Any, path: Path) -> None:
    """`torch.save` under a temporary name, synced, then renamed.

    Raises:
        UserError: the file cannot be written, for instance because the disk is full; an earlier
            file of this name is unchanged.
    """
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except Exception as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__  # torch raises an error of its own on top
        if reason is not None:
            raise UserError(
                f"cannot write {path}: {reason.strerror}. Earlier checkpoints are intact: fix this,"
                " then resume the run"
            ) from error
        raise


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, as "it ..."; None if its content is what was written.

    A file of `torch.save` is a zip archive, which has a checksum of each of its members.
    """
    if path.is_dir():
        return _shards().damage(path)  # type: ignore[no-any-return]
    try:
        with zipfile.ZipFile(path) as archive:
            return "does not match its checksum" if archive.testzip() else None
    except FileNotFoundError:
        return "is missing"
    except zipfile.BadZipFile:
        return "is cut off, or no checkpoint" if path.stat().st_size else "is empty"
    except Exception as error:  # of many kinds: a flipped bit may be in any record of the archive
        return f"is unreadable ({error})"


def _shards() -> Any:
    from common.engine import sharded_files  # half a second of imports that few need

    return sharded_files


def saved_checkpoints(folder: Path) -> list[Path]:
    """Step checkpoints of a folder, oldest first, intact or not."""
    return sorted(p for p in folder.glob("step-*.ckpt") if NAME.fullmatch(p.name))


def newest_intact(
    folder: Path, validated_every: int | None = None
) -> tuple[Path | None, dict[Path, str]]:
    """The newest intact step checkpoint, and all damaged ones with what is wrong with them.

    Args:
        folder: of a stage.
        validated_every: steps between validations that select the best weights; a step that was to
            be validated and is not is passed over: the trainer would go on behind its validation.
    """
    wrong = {path: damage(path) for path in saved_checkpoints(folder)}
    damaged = {path: reason for path, reason in wrong.items() if reason is not None}
    validated = validations(folder)
    usable = [
        path
        for path, reason in wrong.items()
        if reason is None
        and not (
            validated_every
            and (step := step_of(path)) % validated_every == 0
            and step not in validated
        )
    ]
    return usable[-1] if usable else None, damaged


def step_of(path: Path) -> int:
    """The step of a step checkpoint."""
    return int(path.stem.removeprefix("step-"))


def validations(folder: Path) -> dict[int, float]:
    """Monitored value of every validated step of a stage; empty where nothing is monitored."""
    path = folder / VALIDATIONS
    return {int(k): float(v) for k, v in read_json(path).items()} if path.exists() else {}


def mark_finished(folder: Path, checkpoint: Path, index: int) -> None:
    """Note that a stage is finished.

    Args:
        folder: of the stage.
        checkpoint: its final weights, in this folder.
        index: its number among the stages.
    """
    write_json(folder / "finished.json", {"checkpoint": checkpoint.name, "stage": index})


def finished(folder: Path) -> Path | None:
    """Final checkpoint of a finished stage, or None while it is not finished."""
    marker = folder / "finished.json"
    return folder / read_json(marker)["checkpoint"] if marker.is_file() else None


def load(path: Path, values: bool = True) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``, after its checksum was verified.

    Args:
        path: a file, or a folder of shards, which is read without the states of its optimisers.
        values: of the weights; without them those of shards are on the meta device.

    Raises:
        UserError: the file is missing or holds something other than plain tensors; `Damaged` when
            it is not what was written.
    """
    refuse_special(path)
    if (reason := damage(path)) is not None:
        raise Damaged(f"{path} cannot be read as a checkpoint: it {reason}")
    if path.is_dir():
        return _shards().read(path, values)  # type: ignore[no-any-return]
    try:
        # mapped: what is not used, such as the optimiser's states, is not read
        mapped = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # torch's text advises to load it all the same
        raise UserError(
            f"{path} cannot be read as a checkpoint: it has more than tensors and plain values, "
            "and code from a checkpoint is never run"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} has no 'state_dict'; was it written by this repository?")
    return content


def ema_weights(content: dict[str, Any]) -> dict[str, Any] | None:
    """The averaged weights in a checkpoint, if it has any."""
    state = content.get("callbacks", {}).get("EMA")
    return state["average"] if state else None


def load_weights(module: nn.Module, path: Path) -> None:
    """Load the weights (the average where there is one) of a checkpoint into a module.

    Raises:
        UserError: the checkpoint belongs to another model.
    """
    content = load(path)
    state = ema_weights(content) or content["state_dict"]
    adapt: Any = getattr(module, "adapt_to", None)
    if adapt is not None:
        adapt(state)
    check_fits(module, state, path)
    module.load_state_dict(state)
    check_finite(module, path)


def check_finite(module: Any, path: Path) -> None:
    """Refuse weights that are nan or infinite: every number computed with them is too.

    Args:
        module: just loaded.
        path: where from, for the message.

    Raises:
        UserError: names the first parameter.
    """
    parameters = module.named_parameters() if isinstance(module, nn.Module) else ()
    for name, value in parameters:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(
                f"{path}: parameter '{name}' is nan or infinite, training has diverged: take an"
                " earlier checkpoint, or train again with a lower optim.lr"
            )


def check_fits(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """UserError unless names and shapes of a state dict are exactly those of the module."""
    expected = module.state_dict()
    missing, unexpected = (
        sorted(expected.keys() - state.keys()),
        sorted(state.keys() - expected.keys()),
    )
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in expected.keys() & state.keys()
        if hasattr(expected[k], "shape") and state[k].shape != expected[k].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", sorted(shapes)),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{path} is a checkpoint of another model: {'; '.join(problems)}. "
            "Use the config that it was trained with."
        )
