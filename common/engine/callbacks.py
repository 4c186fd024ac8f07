"""Callbacks of every fit: step seeds, logging, throughput, EMA; and early stopping."""

import contextlib
import math
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from common.engine.checkpoint import RunCheckpoint, validations
from common.engine.module import ContrastiveModule
from common.engine.sharding import total_norm
from common.engine.workspace import write_json


def step_seed(seed: int, stage: int, step: int, rank: int) -> int:
    """Seed of one optimiser step on one rank, in [0, 2^63)."""
    words = np.random.SeedSequence((seed, stage, step, rank)).generate_state(2, np.uint32)
    return (int(words[0]) << 31) ^ int(words[1])


def seed_all(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


class StepSeed(Callback):
    """Seed all global generators before every batch as f(seed, stage, batch, rank).

    Dropout and every other draw is then a function of the position alone: a run that is continued
    anywhere draws the same numbers, and validation cannot shift them.
    """

    def __init__(self, seed: int, stage: int) -> None:
        self.seed, self.stage = seed, stage

    def on_train_batch_start(
        self, trainer: Trainer, module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Seed for this batch."""
        seed_all(step_seed(self.seed, self.stage, batch_idx, trainer.global_rank))


class MatmulPrecision(Callback):
    """Multiply float32 matrices on CUDA as ``trainer.matmul`` says, during a fit.

    Elsewhere, and in the evaluation after training, products keep what the process had.
    """

    def __init__(self, precision: Literal["highest", "high", "medium"]) -> None:
        self.precision = precision
        self.before: str | None = None

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Switch, if the fit is on CUDA."""
        if trainer.strategy.root_device.type == "cuda":
            self.before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(self.precision)

    def teardown(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Switch back."""
        self._restore()

    def on_exception(self, trainer: Trainer, module: Any, exception: BaseException) -> None:
        """Switch back: no teardown follows."""
        self._restore()

    def _restore(self) -> None:
        if self.before is not None:
            torch.set_float32_matmul_precision(self.before)
            self.before = None


class LogTerms(Callback):
    """Send loss terms, learning rate, gradient norm and speed to the loggers every n steps.

    Terms are averaged over ranks. Keys: train/<term>, train/lr, train/grad_norm,
    sys/samples_per_second, sys/data_wait_share, sys/peak_memory_mib, sys/skipped_samples (corrupt
    samples that this rank has passed over so far).
    """

    def __init__(self, every: int, samples_per_step: int) -> None:
        self.every, self.samples_per_step = every, samples_per_step
        self.grad_norm: Tensor | None = None
        self.lr = 0.0
        self.wait = 0.0
        self.started = self.mark = self.window = time.perf_counter()
        self.window_step = self.first_step = 0
        self.total_wait = 0.0
        self.skipped = 0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start the clocks."""
        self.started = self.mark = self.window = time.perf_counter()
        self.window_step = self.first_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """The time since the last batch, checkpoint or validation was spent waiting for data."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        written = [c.written for c in callbacks if isinstance(c, RunCheckpoint)]
        self.wait += time.perf_counter() - max([self.mark, *written])

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        """Learning rate of the step, and the gradient norm of those that are logged."""
        first = optimizer.param_groups[0]  # with layer decay that of the lowest layer
        self.lr = first["lr"] / (first.get("lr_scale") or 1.0)
        if (trainer.global_step + 1) % self.every == 0 and trainer.precision != "16-mixed":
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            self.grad_norm = total_norm(grads)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, module: ContrastiveModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log when the number of optimiser steps is a multiple of `every`."""
        step = trainer.global_step
        if isinstance(batch, dict):
            self.skipped += int(batch.get("skipped", 0))
        if step % self.every == 0 and step > self.window_step:
            self._log(trainer, module, step)
        self.mark = time.perf_counter()

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Validation is logged at the step it follows; Lightning's own count is one behind."""
        module.log("step", float(trainer.global_step), sync_dist=trainer.world_size > 1)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Time in validation does not count as waiting for data."""
        self.mark = time.perf_counter()

    def summary(self, trainer: Trainer) -> dict[str, float]:
        """Whole fit: samples/s, share of time waiting for data, peak memory, corrupt samples."""
        seconds = max(1e-9, time.perf_counter() - self.started)
        steps = trainer.global_step - self.first_step
        return {
            "samples_per_second": steps * self.samples_per_step / seconds,
            "data_wait_share": (self.total_wait + self.wait) / seconds,
            "peak_memory_mib": peak_memory_mib(),
            "skipped_samples": self.skipped,
        }

    def _log(self, trainer: Trainer, module: ContrastiveModule, step: int) -> None:
        now = time.perf_counter()
        terms = module.logged_terms()
        values = torch.stack([v.float().mean() for v in terms.values()])
        if trainer.world_size > 1:
            values = trainer.strategy.reduce(values, reduce_op="mean")
        metrics = {f"train/{k}": float(v) for k, v in zip(terms, values.tolist(), strict=True)}
        metrics["train/lr"] = self.lr
        if self.grad_norm is not None:
            metrics["train/grad_norm"] = float(self.grad_norm)
        elapsed = max(1e-9, now - self.window)
        steps = step - self.window_step
        metrics["sys/samples_per_second"] = steps * self.samples_per_step / elapsed
        metrics["sys/data_wait_share"] = self.wait / elapsed
        metrics["sys/peak_memory_mib"] = peak_memory_mib()
        metrics["sys/skipped_samples"] = self.skipped
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self.total_wait += self.wait
        self.wait, self.window, self.window_step = 0.0, now, step


def peak_memory_mib() -> float:
    """Highest memory use so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would return the parent's peak if that was higher
        lines = status.read_text(encoding="ascii", errors="ignore").splitlines()
        peak_line = next((line for line in lines if line.startswith("VmHWM")), None)
        if peak_line is not None:  # gVisor's /proc has none
            return int(peak_line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class SaveBadBatch(Callback):
    """Where the finite-loss guard leaves the ids of the batch that broke."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rank = 0

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Remember the rank for the file name."""
        self.rank = trainer.global_rank

    def save_bad_batch(self, terms: list[str], ids: Any) -> Path:
        """Write the names of the terms and the ids; returns the file."""
        path = self.folder / f"bad_batch_rank{self.rank}.json"
        write_json(path, {"terms": terms, "ids": ids})
        return path


class EMA(Callback):
    """Exponential moving average of the weights, in their own dtype, saved with the checkpoint.

    ema <- decay * ema + (1 - decay) * weights after every optimiser step. Buffers in floating point
    (running means, queues) are averaged as weights are; all others (counters) are copied.

    Args:
        decay: in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"trainer.ema_decay={decay}: must lie in [0, 1)")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.last_step = -1

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start from the current weights unless a checkpoint brought an average."""
        if not self.average:
            self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}
        else:
            self.average = {k: v.to(module.device) for k, v in self.average.items()}
        self.last_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Update once per optimiser step."""
        if trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        for name, value in module.state_dict().items():
            average = self.average[name]
            if average.is_floating_point():
                average.lerp_(value.detach().to(average.dtype), 1 - self.decay)
            else:
                average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Saved in the checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restored from the checkpoint."""
        self.average = state_dict["average"]

    @contextlib.contextmanager
    def applied(self, module: Any) -> Iterator[None]:
        """Use the averaged weights inside the block."""
        live = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.average)
        try:
            yield
        finally:
            module.load_state_dict(live)

    def on_validation_start(self, trainer: Trainer, module: Any) -> None:
        """Validate the average."""
        self._swap = self.applied(module)
        self._swap.__enter__()

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Back to the live weights."""
        self._swap.__exit__(None, None, None)


class StopWithoutGain(Callback):
    """End the fit after a number of validations without a better value, also in a run that goes on.

    It has no state in checkpoints: a step is saved before it is validated, so a count in there
    would lack the last validation. What was validated up to a step stands in ``validations.json``
    (`RunCheckpoint`), and a run that continues starts to count from it.

    Args:
        monitor: validation key, the one that selects the stage's best weights.
        patience: validations one after the other that are no better than the best (equal ones,
            nan), >= 1.
        mode: whether larger (max) or smaller (min) is better.

    Raises:
        ValueError: at the start of the fit, when the best weights are selected by another key.
    """

    def __init__(self, monitor: str, patience: int, mode: Literal["min", "max"] = "max") -> None:
        self.monitor, self.patience = monitor, patience
        self.sign = 1.0 if mode == "max" else -1.0
        self.best, self.waited = -math.inf, 0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Count what was validated before.

        A run that was cut off after its last validation ends here.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        checkpoint = next(c for c in callbacks if isinstance(c, RunCheckpoint))
        if checkpoint.monitor != self.monitor:
            raise ValueError(
                f"{self.monitor} cannot stop a stage whose monitor is {checkpoint.monitor}: its "
                "values would be lost when the run resumes"
            )
        self.best, self.waited = -math.inf, 0
        for step, value in sorted(validations(checkpoint.folder).items()):
            if step <= trainer.global_step:
                self._count(value)
        self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        """Count this one."""
        if not trainer.sanity_checking:
            self._count(float(trainer.callback_metrics[self.monitor]))
            self._stop(trainer)

    def _count(self, value: float) -> None:
        better = self.sign * value > self.best
        self.best = self.sign * value if better else self.best
        self.waited = 0 if better else self.waited + 1

    def _stop(self, trainer: Trainer) -> None:
        """All ranks or none."""
        enough = trainer.strategy.reduce_boolean_decision(self.waited >= self.patience, all=False)
        trainer.should_stop = trainer.should_stop or enough
