"""SIGTERM, SIGINT and SIGUSR1 from the start of a run to its end.

Inside the training loop the run saves at the next optimiser step and ends; outside of it there is
nothing to save, so it ends at once. Either way the exit code is 143, 130 or 138, and processes that
the run has started end with it. SIGUSR1 is a scheduler's word that the time is nearly up: what ends
with 138 may be queued again (`scripts/slurm/train.sbatch`).
"""

import contextlib
import os
import signal
import subprocess
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, Trainer

from common.engine.checkpoint import wait_for_shards

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE = 5.0  # seconds that child processes are given to end by themselves


class Signals:
    """The handlers of one run; a context manager that gives the old ones back.

    Attributes:
        received: number of the first signal, 0 while there is none.
        children: the other processes of a run on several devices that this one has started.
    """

    def __init__(self) -> None:
        self.received = 0
        self.children: list[subprocess.Popen[bytes]] = []
        self._watched: list[list[subprocess.Popen[bytes]]] = []  # Lightning's lists of them
        self._held = False
        self._leaves = False  # saved at the end of a job's time, on its way out
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in NUMBERS:
            with contextlib.suppress(ValueError):  # not in the main thread
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for number, handler in self._previous.items():
            if not (self._leaves and number == signal.SIGTERM):
                signal.signal(number, handler)
        if error is not None:
            self._end_children()

    def hold(self) -> None:
        """From now on a signal is only noted; also replaces handlers that were set meanwhile."""
        self._held = True
        for number in self._previous:
            signal.signal(number, self._handle)

    def release(self) -> None:
        """Signals end the run again; one that came meanwhile does so now."""
        self._held = False
        if self.received:
            self.end(self.received)

    def end(self, number: int) -> NoReturn:
        """Leave with the exit code of a signal."""
        for processes in self._watched:
            # Lightning would kill this process as soon as one of them has ended with an error
            processes.clear()
        if number == signal.SIGUSR1 and signal.SIGTERM in self._previous:
            # srun may end a job's other processes as soon as one has left: they leave with their
            # own code, by which the job is queued again
            self._leaves = True
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    def add_children(self, processes: list[subprocess.Popen[bytes]]) -> None:
        """The other processes of a run on several devices, in the list that Lightning watches."""
        self.children += processes
        self._watched.append(processes)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner:  # a forked worker has inherited the handler
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        again, self.received = self.received, self.received or number
        if number != signal.SIGINT:  # a terminal sends SIGINT to all processes by itself
            for child in self.children:
                child.send_signal(number)
        if not self._held or (again and number == signal.SIGINT):
            self.end(self.received)

    def _end_children(self) -> None:
        for processes in self._watched:
            processes.clear()
        for child in self.children:
            child.terminate()
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            child.kill()


class StopSignal(Callback):
    """Saves and leaves at a step boundary once a signal has arrived on any rank.

    Args:
        signals: of the run.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Remember the processes that the trainer has started."""
        self.signals.add_children(getattr(trainer.strategy.launcher, "procs", []))

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Replace Lightning's handlers, which stop without saving."""
        self.signals.hold()

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        """Save and leave; all ranks agree on the step."""
        received = self.signals.received
        if trainer.world_size > 1:
            flag = torch.tensor(received, device=module.device)
            received = int(trainer.strategy.reduce(flag, reduce_op="max"))
        if received and trainer.fit_loop.epoch_loop._should_accumulate() is False:
            checkpoint: Any = trainer.checkpoint_callback
            checkpoint.save(trainer, module)
            wait_for_shards(trainer)
            for logger in trainer.loggers:
                logger.finalize("aborted")
            self.signals.end(received)
