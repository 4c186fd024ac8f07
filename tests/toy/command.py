"""Commands on the toy project in forks of the test's process, which cost no imports."""

import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import numpy as np
import pytest
import torch

import tests.toy
from common import cli, config, registry
from common.engine import run
from common.engine.comparison import (
    baselines,
    claims,
    processes,
    references,
    results,
    runs,
    spec,
)
from tests.forked import forked, print_to


def use_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of this process knows the toy project."""
    folder = Path(tests.toy.__file__).parent / "configs"
    toy = {"load_project": lambda slug: tests.toy, "CONFIG_DIR": folder}
    for module in (config, registry, baselines, claims, references, results, spec, run):
        for name in toy.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, toy[name])


class Command:
    """``python -m common.cli <words>`` that knows the toy project, running."""

    def __init__(self, folder: Path, *words: str, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._errors = folder / "stdout.txt", folder / "stderr.txt"
        self.process = forked(_main, words, self._out, self._errors, dict(env or {}))

    def send(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ends(self, timeout: float = 180) -> int:
        """Wait for the end; the exit code (minus the number of the signal that ended it)."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"no end within {timeout:.0f} s: {self.errors}")
        return self.process.exitcode

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return self._errors.read_text(encoding="utf-8")


class ForkedRun:
    """What `subprocess.Popen` is to a comparison, for the runs of the toy project."""

    def __init__(
        self, command: Sequence[str], *, stdout: IO[bytes], env: Mapping[str, str], **_: object
    ) -> None:
        words, log = tuple(command[len(processes.COMMAND) :]), Path(stdout.name)
        self.process = forked(_main, words, log, log, dict(env), "a")

    @property
    def pid(self) -> int | None:
        """Of its process and, once it runs, of the group that it leads."""
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("toy", timeout or 0.0)
        return self.process.exitcode


def _main(
    words: tuple[str, ...], out: Path, errors: Path, env: dict[str, str], mode: str = "w"
) -> None:
    os.environ.update(env)
    if mode == "a":  # a run of a comparison
        os.setsid()
    print_to(out, errors, mode)
    # a fork inherits what a new process would not: states of generators that a run has to seed
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_toy(monkeypatch)
        starts_runs = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedRun})
        monkeypatch.setattr(processes, "subprocess", starts_runs)  # of a comparison
        # the developer's own changes do not matter to the toy
        monkeypatch.setattr(runs, "code_state", lambda: {"commit": "a" * 40, "dirty": False})
        runs.present_code.cache_clear()
        sys.exit(cli.main(words))
