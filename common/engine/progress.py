"""Progress that can be read in a terminal (rich bar) and in a log file (a line now and then)."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_SECONDS = 10.0  # time between lines where there is no terminal
NARROW = 60  # columns of a terminal below which bar and elapsed time are left out
MOST_TERMS = 6  # of a loss that are shown; metrics.csv has all


class _Screen(Console):
    """A console that leaves it to us what happens when its terminal is gone; rich would exit."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Meter:
    """One progress display: a bar in a terminal, else a line every `LINE_SECONDS`.

    Args:
        description: what is done.
        total: units in all; None where nobody knows.
        done: units that were done before, which say nothing about the speed.
    """

    def __init__(self, description: str, total: float | None, done: int = 0) -> None:
        self.description, self.total, self.count, self.done = description, total, done, done
        self.start = self.last = time.monotonic()
        self.bar: Progress | None = None
        if _is_terminal():
            screen = _Screen(stderr=True)
            columns: list[ProgressColumn] = [
                TextColumn("{task.description}"),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            ]
            if screen.width < NARROW:
                description = description[: max(8, screen.width - 28)]
            else:
                columns.insert(1, BarColumn())
                columns.insert(3, TimeElapsedColumn())
                columns.append(TextColumn("{task.fields[info]}"))
            self.bar = Progress(*columns, console=screen, transient=True)
            self.task = self.bar.add_task(description, total=total, completed=done, info="")
            with _unheard(self):
                self.bar.start()

    def update(self, count: int, info: str = "") -> None:
        """Show that `count` units are done."""
        self.count = count
        if self.bar is not None:
            with _unheard(self):
                self.bar.update(self.task, completed=count, info=info)
        elif time.monotonic() - self.last >= LINE_SECONDS:
            self._line(info)

    def due(self) -> bool:
        """Whether a call of `update` would draw, so that costly texts are made only then."""
        return self.bar is not None or time.monotonic() - self.last >= LINE_SECONDS

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            with _unheard(self):
                self.bar.stop()

    def _line(self, info: str) -> None:
        self.last = time.monotonic()
        elapsed = self.last - self.start
        left = ""
        if self.total and self.count > self.done:
            seconds = elapsed / (self.count - self.done)
            left = f", {seconds * (self.total - self.count):.0f} s left"
        total = f"/{self.total:.0f}" if self.total else ""
        with _unheard(self):
            sys.stderr.write(
                f"{self.description}: {self.count}{total} in {elapsed:.0f} s{left} {info}\n"
            )
            sys.stderr.flush()


def _is_terminal() -> bool:
    """Whether someone looks at stderr; nobody does when it is closed."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError, OSError):
        return False


@contextmanager
def _unheard(meter: Meter) -> Iterator[None]:
    """The work goes on when nobody listens any more: stderr is closed, or its terminal gone."""
    try:
        yield
    except (OSError, ValueError, AttributeError):
        meter.bar = None


def track(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
    """Yield the items while showing progress."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    meter = Meter(description, total)
    try:
        for count, item in enumerate(iterable, 1):
            yield item
            meter.update(count)
    finally:
        meter.close()


def shown_terms(terms: Mapping[str, Any]) -> str:
    """The first terms of a loss with their values, and how many more there are.

    >>> shown_terms({"loss": 1.5, "pull": 0.25})
    'loss 1.5 pull 0.25'
    """
    shown = [f"{name} {float(terms[name]):.4g}" for name in list(terms)[:MOST_TERMS]]
    more = len(terms) - len(shown)
    return " ".join([*shown, *([f"(+{more})"] if more else [])])


class TrainingProgress(ProgressBar):
    """Steps, loss, learning rate and speed of the running stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.meter: Meter | None = None
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Called by Lightning on rank 0."""
        self._enabled = True

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Open the display."""
        if self._enabled and trainer.is_global_zero:
            self.meter = Meter(self.stage, trainer.max_steps, trainer.global_step)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Draw when due."""
        if self.meter is not None and self.meter.due():
            self.meter.update(trainer.global_step, shown_terms(module.logged_terms()))

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Leave the terminal in order."""
        self._close()

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Remove the display."""
        self._close()

    def _close(self) -> None:
        if self.meter is not None:
            self.meter.close()
            self.meter = None
