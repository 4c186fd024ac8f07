"""The stages of a run, one after the other; finished ones are loaded, a broken-off one goes on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from common.config import ExperimentConfig, UserError
from common.engine import checkpoint as ckpt
from common.engine.callbacks import LogTerms, seed_all, step_seed
from common.engine.experiment import Stage
from common.engine.lifecycle.launch import is_main_process
from common.engine.lifecycle.run import Run
from common.engine.lifecycle.signals import Signals, StopSignal
from common.engine.lifecycle.unsharded import Unsharded
from common.engine.module import ContrastiveModule
from common.engine.sharding import Sharded
from common.engine.tracking import drop_rows_after
from common.engine.trainer import build_trainer, run_precision, stage_config


class Begin(Callback):
    """Notes in meta.json that a run has made its first step."""

    def __init__(self, run: Run) -> None:
        self.run, self.done = run, False

    def on_train_batch_end(self, *_: Any) -> None:
        """Once."""
        if not self.done:
            self.run.begin()
            self.done = True


def fit_stages(
    run: Run,
    signals: Signals,
    cfg: ExperimentConfig,
    first: Stage,
    rest: Iterator[Stage],
    loggers: list[Any],
) -> tuple[ContrastiveModule, dict[str, float]]:
    """Fit what is not fitted yet.

    Returns:
        The last stage's module; speed and memory of the last fit, empty when nothing was fitted.
    """
    summary: dict[str, float] = {}
    stage: Stage | None = first
    index = 0
    names: set[str] = set()
    while stage is not None:
        if stage.name in names:
            raise ValueError(f"two stages are called '{stage.name}'")
        names.add(stage.name)
        if not _load_finished(stage, run.path / "checkpoints" / stage.name, index):
            summary = _fit(run, signals, cfg, stage, index, loggers)
        module = stage.module
        index += 1
        seed_all(step_seed(cfg.seed, index, 0, 0))
        stage = next(rest, None)
    run.record(fitted=True)
    return module, summary


def _load_finished(stage: Stage, folder: Path, index: int) -> bool:
    """Load the weights of a finished stage; False when it has to be fitted (further)."""
    final = ckpt.finished(folder) or stage.weights
    if final is None:
        return False
    try:
        ckpt.load_weights(stage.module, final)
        if final == stage.weights:
            _take_over(final, folder, index)
    except ckpt.Damaged as error:
        if ckpt.NAME.fullmatch(final.name) is None:  # the best one: steps do not bring it back
            raise ckpt.Damaged(_anew(error, final)) from error
        return False  # an older step leads to the same weights again
    return True


def _take_over(weights: Path, folder: Path, index: int) -> None:
    """Put another run's weights into this one's folder, so that it can be evaluated and exported."""
    if not is_main_process():
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / "best.ckpt"
    try:
        own.hardlink_to(weights)
    except FileExistsError:
        pass
    except OSError:  # another file system
        shutil.copyfile(weights, own)
    ckpt.mark_finished(folder, own, index)


def _fit(
    run: Run,
    signals: Signals,
    cfg: ExperimentConfig,
    stage: Stage,
    index: int,
    loggers: list[Any],
) -> dict[str, float]:
    folder = run.path / "checkpoints" / stage.name
    asked = stage_config(cfg.trainer, stage)
    selects = stage.monitor is not None and bool(stage.data.val_sets)
    validated_every = asked.val_every_n_steps if selects else None
    start = _start(stage, folder, run.owner, validated_every)
    further = [Begin(run), StopSignal(signals)]
    trainer = build_trainer(cfg, stage, index, run.workspace(), loggers, further)
    step = 0
    if start is not None:
        content = ckpt.load(start)
        ckpt.check_fits(stage.module, content["state_dict"], start)
        step = int(content["global_step"])
        del content  # the optimiser's states among it: Lightning reads its own
        stage.data.start_at(step * trainer.accumulate_grad_batches)
        if trainer.is_global_zero:
            print(f"{stage.name}: goes on after step {step}")  # noqa: T201
    elif trainer.is_global_zero and run.meta.get("resumed"):
        print(f"{stage.name}: no checkpoint yet, begins with its first step")  # noqa: T201
    if trainer.is_global_zero:
        if (used := run_precision(asked)) != asked.precision:
            print(f"{stage.name}: this processor only emulates {asked.precision}; runs in {used}")  # noqa: T201
        drop_rows_after(run.path / "metrics.csv", stage.name, step)
    whole = Unsharded(stage.module) if isinstance(trainer.strategy, Sharded) else None
    trainer.fit(stage.module, stage.data, ckpt_path=start, weights_only=True)
    best = folder / "best.ckpt"
    final = best if best.exists() else ckpt.saved_checkpoints(folder)[-1]
    if whole is not None:
        whole.restore()
    try:
        ckpt.load_weights(stage.module, final)
    except ckpt.Damaged as error:
        raise ckpt.Damaged(_anew(error, final)) from error
    if not asked.precision.endswith("-mixed"):
        stage.module.float()  # evaluation and export are in float32 whatever the weights were in
    if trainer.is_global_zero:
        ckpt.mark_finished(folder, final, index)
    signals.release()  # the stage is saved: one that came after its last step ends the run here
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    log = next(c for c in callbacks if isinstance(c, LogTerms))
    return log.summary(trainer)


def _start(stage: Stage, folder: Path, owner: bool, validated_every: int | None) -> Path | None:
    """The checkpoint that a stage goes on from; None at its beginning.

    Damaged ones are named, and set aside so that they never push out an intact one.
    """
    start, damaged = ckpt.newest_intact(folder, validated_every)
    if damaged and start is None:
        said = "; ".join(f"{path.name} {reason}" for path, reason in damaged.items())
        raise UserError(
            f"no checkpoint of stage '{stage.name}' is intact ({said}): "
            f"delete {folder} to fit this stage from its beginning"
        )
    for path, reason in damaged.items() if owner else ():
        print(f"{stage.name}: {path.name} {reason}; it is passed over")  # noqa: T201
        path.replace(path.with_name(f"{path.name}.damaged"))
    return start


def _anew(error: Exception, final: Path) -> str:
    return f"{error}. Delete {final.parent} to fit this stage from its beginning"
