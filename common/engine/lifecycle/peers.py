"""The processes of a run on several devices: one that is gone or hangs ends the others, by name.

Collectives wait for a process that is gone until their time-out, half an hour. So each process beats
every few seconds in the store of the process group, and the first one watches the others, as they
watch the first. A process that ends, is killed or stopped is noticed within a minute. One that lives
but waits for something else than the others, such as a file, is noticed by its position: each process
posts how far it is, and after `trainer.stall_seconds` without a step the one that is behind is named.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from common.config import UserError, first_line
from common.distributed.process import gather_objects
from common.engine.lifecycle.signals import Signals
from common.engine.lifecycle.stalls import Pulse
from common.engine.terminal import warn

BEAT = 3.0  # seconds between two signs of life
PATIENCE = 45.0  # seconds without one before a process counts as gone
GRACE = 8.0  # seconds that this process is given to end by itself


class Peers(Callback):
    """Notices that another process of the run is gone, and refuses ones that differ.

    Args:
        name: of the stage that is fitted.
        signals: of the run; knows the processes that this one has started.
        pulse: of this process.
        failed: called with the reason before this process leaves.

    Attributes:
        reason: who is gone, once it is known.
    """

    def __init__(
        self, name: str, signals: Signals, pulse: Pulse, failed: Callable[[str], None]
    ) -> None:
        self.name, self.signals, self.pulse, self.failed = name, signals, pulse, failed
        self.reason: str | None = None
        self._well = True  # whether the fit ended as planned
        self._end = threading.Event()

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Compare the processes and begin to watch."""
        if trainer.world_size == 1:
            return
        # Lightning would kill this process without a word when one of them has ended
        getattr(trainer.strategy.launcher, "procs", []).clear()
        check_alike(trainer)
        rank = trainer.global_rank
        names = gather_objects(f"rank {rank} (process {os.getpid()} on {socket.gethostname()})")
        watched = range(1, trainer.world_size) if rank == 0 else [0]
        default: Any = dist.distributed_c10d._get_default_store()
        shared = default.clone()  # a connection of its own: the trainer's waits in its collectives
        shared.set_timeout(timedelta(seconds=PATIENCE / 2))
        store = dist.distributed_c10d.PrefixStore(f"peers/{self.name}", shared)
        args = (store, rank, dict(enumerate(names)), watched)
        threading.Thread(target=self._watch, args=args, daemon=True, name="peers").start()

    def stop(self, well: bool) -> None:
        """The fit is over; `well`: the others need not wait for this process."""
        self._well = well
        self._end.set()

    def missing(self) -> str:
        """Who is gone, for a process whose collective has failed."""
        deadline = time.monotonic() + GRACE / 2
        while (self.reason or self._ended_child()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        self.reason = self.reason or self._ended_child()
        return self.reason or "another process of this run is gone or does not answer"

    def _watch(self, store: Any, rank: int, names: dict[int, str], watched: Iterable[int]) -> None:
        """Beat, and look at the beats of others; the body of a thread."""
        beats, looked = dict.fromkeys(watched, -1), time.monotonic()
        seen = dict.fromkeys(beats, looked)
        try:
            while not self._end.wait(BEAT):
                store.set(f"position/{rank}", self.pulse.position())
                store.add(f"beat/{rank}", 1)
                now = time.monotonic()
                if now - looked > PATIENCE / 2:  # this process itself was stopped for a while
                    seen = dict.fromkeys(beats, now)
                    self.pulse.restart()
                looked = now
                for other in beats:
                    name = names[other]
                    beat = store.add(f"beat/{other}", 0)
                    if beat != beats[other] or store.add(f"left/{other}", 0):
                        beats[other], seen[other] = beat, now
                    elif now - seen[other] > PATIENCE:
                        self._leave(f"{name} has given no sign of life for {PATIENCE:.0f} s")
                if reason := self._ended_child():
                    self._leave(reason)
                if rank == 0 and (idle := self.pulse.stalled()):
                    self._leave(f"{_behind(store, names)} and makes no step for {idle:.0f} s")
            if self._well:
                store.add(f"left/{rank}", 1)
        except Exception as error:  # of several kinds: the store lives in the first process
            if not self._end.is_set():
                self._leave(f"{names[0]} is gone ({first_line(error)})")

    def _ended_child(self) -> str | None:
        """How a process that this one has started ended, if one did badly."""
        for rank, child in enumerate(self.signals.children, 1):
            if child.poll():
                return f"rank {rank} (process {child.pid}) {ending(child.returncode)}"
        return None

    def _leave(self, reason: str) -> None:
        """Let this process end by an error of its own; else end it: it waits for who is gone."""
        if self.signals.received:
            return
        self.reason = reason
        if self._end.wait(GRACE):
            return
        with contextlib.suppress(Exception):
            self.failed(lost(reason))
        warn(f"error: {lost(reason)}")
        for child in self.signals.children:
            child.kill()
        os._exit(2)  # the main thread may wait in a collective, which nothing interrupts


def _behind(store: Any, names: dict[int, str]) -> str:
    """The processes that the others wait for, and what those do."""
    places = {rank: store.get(f"position/{rank}").decode().split(" ", 2) for rank in names}
    orders = {rank: (int(count), int(waits)) for rank, (count, waits, _) in places.items()}
    last = [rank for rank, order in orders.items() if order == min(orders.values())]
    who = "every process" if len(last) == len(names) else ", ".join(names[rank] for rank in last)
    return f"{who} waits for {places[last[0]][2]}"


def lost(reason: str) -> str:
    """What a run says that has lost one of its processes."""
    return f"{reason}, so this run cannot go on: see that process's own message, then resume it"


def ending(code: int) -> str:
    """How a process ended, with what to do about it.

    >>> ending(2), ending(-9)[:21]
    ('ended with code 2', 'was killed by SIGKILL')
    """
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    memory = (
        ", most likely for want of memory: lower data.batch_size or data.num_workers"
        if code == -signal.SIGKILL
        else ""
    )
    return f"was killed by {name}{memory}"


def check_alike(trainer: Trainer) -> None:
    """Refuse processes whose data or length differ: they would wait for each other without end.

    Raises:
        UserError: names what differs, and the ranks.
    """
    own = {**row_counts(trainer), "steps": trainer.max_steps}
    everyone = gather_objects(own)
    for name in own:
        values = [each.get(name) for each in everyone]
        if len(set(values)) > 1:
            listed = ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
            raise UserError(
                f"the processes of this run have different numbers of {name} ({listed}): give every"
                " machine the same data, code and settings"
            )


def row_counts(trainer: Trainer) -> dict[str, int | None]:
    """Rows of the sets of a fit, by what they are called in messages."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "training rows": _rows(data.train_set),
        **{f"rows of {name}": _rows(rows) for name, rows in data.val_sets.items()},
    }


def _rows(rows: Any) -> int | None:
    """Rows of a set, shards of a stream, None where neither is known."""
    try:
        return len(getattr(rows, "shards", rows))
    except TypeError:
        return None
