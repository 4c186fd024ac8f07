"""A fit that makes no step any more: what its process waits for, and for how long.

A disk or a file server that hangs blocks whoever reads from it, without an error. A thread that
does not wait itself says so. Where several processes train together, `peers` ends the run.
"""

import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from common.config import ROOT
from common.engine.terminal import warn

PAUSE = 3.0  # seconds between two looks at the fit
FACTOR = 10  # a step may take this many times as long as the longest one before


class Pulse(Callback):
    """Notes the position of this process in its fit; reports where it waits when it stands still.

    It counts as stalled in steps and the batches between them, from the second step on: the first
    compiles and fills caches, and validations and checkpoints last as long as they last.

    Args:
        seconds: without a step after which the fit counts as stalled.

    Attributes:
        count: positions so far; of processes that train together, the one that all others wait for
            has the lowest.
        what: this process waits for or does, for a message.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.count, self.what, self.longest = 0, "the first step", 0.0
        self.since = time.monotonic()
        self.thread = threading.current_thread()
        self._timed = False
        self._end = threading.Event()

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Begin to watch."""
        self.thread = threading.current_thread()
        threading.Thread(target=self._watch, daemon=True, name="pulse").start()

    def on_train_batch_start(
        self, trainer: Trainer, module: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step begins."""
        self._note(f"step {trainer.global_step + 1}")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """The next batch is due."""
        self._note(f"the data of step {trainer.global_step + 1}")

    def on_validation_start(self, *_: Any) -> None:
        """Takes its own time."""
        self._note("a validation", timed=False)

    def on_validation_batch_end(self, *_: Any) -> None:
        """Takes its own time."""
        self._note("a validation", timed=False)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """The next batch is due."""
        self._note(f"the data of step {trainer.global_step + 1}")

    def on_save_checkpoint(self, *_: Any) -> None:
        """Takes its own time."""
        self._note("a checkpoint", timed=False)

    def stop(self) -> None:
        """The fit is over."""
        self._end.set()

    def restart(self) -> None:
        """Restart the time at this position: the whole process was stopped for a while."""
        self.since = time.monotonic()

    def position(self) -> str:
        """For another process: count, whether this one waits for others (1, 0), and for what."""
        frames = stack(self.thread)
        return f"{self.count} {in_collective(frames):d} {self.what} in {place(frames)}"

    def stalled(self) -> float | None:
        """Seconds at the same position if those are too many; else None."""
        return self._idle() if self._timed else None

    def _idle(self) -> float | None:
        """As `stalled`, at any position."""
        idle = time.monotonic() - self.since
        return idle if idle >= max(self.seconds, FACTOR * self.longest) else None

    def _note(self, what: str, timed: bool = True) -> None:
        now = time.monotonic()
        if self._timed:
            self.longest = max(self.longest, now - self.since)
        self.count, self.what, self.since = self.count + 1, what, now
        self._timed = timed and self.count > 2

    def _watch(self) -> None:
        """Report each stall, again whenever its time has doubled; the body of a thread."""
        pause, looked = min(PAUSE, self.seconds / 2), time.monotonic()
        reported = position = 0.0
        while not self._end.wait(pause):
            before, looked = looked, time.monotonic()
            if looked - before > FACTOR * pause:
                self.restart()
            idle = self._idle()
            if idle is None or self.count != position:
                reported, position = 0.0, self.count
            if idle is not None and idle >= 2 * reported:
                reported = idle
                where = place(stack(self.thread))
                warn(f"waiting for {self.what} since {idle:.0f} s, in {where}")


def stack(thread: threading.Thread) -> traceback.StackSummary:
    """What a thread executes, outermost first; empty once it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    frames = [] if frame is None else list(traceback.walk_stack(frame))
    return traceback.StackSummary.extract(reversed(frames), lookup_lines=False)


def place(frames: traceback.StackSummary) -> str:
    """The last line of our code in a stack, and the function that it waits in."""
    if not frames:
        return "a thread that has ended"
    ours = [frame for frame in frames if _is_ours(frame.filename)] or frames
    line = f"{_relative(ours[-1].filename)}:{ours[-1].lineno}"
    return line if ours[-1] is frames[-1] else f"{line} ({frames[-1].name})"


def in_collective(frames: traceback.StackSummary) -> bool:
    """Whether a stack waits for other processes."""
    return any("torch/distributed/" in frame.filename for frame in frames)


def _is_ours(name: str) -> bool:
    path = Path(name)
    return path.is_relative_to(ROOT) and ".venv" not in path.parts


def _relative(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else name
