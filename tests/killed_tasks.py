"""Tasks that are killed before they work undisturbed: `pytest tests/projects --kill-tasks`.

Each task that a test runs is first killed in copies of this process, before the first file gets its
name, before the second, and so on, always on what the copy before it has left. Then the test runs
it to its end and judges the outcome as ever.
"""

import functools
import importlib
import inspect
import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from common.config import ROOT
from common.engine.experiment import Experiment
from tests.forked import forked
from tests.interrupted import die

MOST = 6  # kills of one call of a task


class KilledTasks:
    """A plugin of pytest.

    Attributes:
        kills: of each task.
        project: of the test that runs.
        is_inside: whether a task runs; those that it calls are part of it.
    """

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.project, self.is_inside = "", False

    def pytest_configure(self) -> None:
        """Before any test is imported, for those that import tasks by name."""
        for path in ROOT.glob("projects/*/tasks.py"):
            module = importlib.import_module(f"projects.{path.parent.name}.tasks")
            for name, function in inspect.getmembers(module, inspect.isfunction):
                takes = inspect.signature(function).parameters
                if function.__module__ == module.__name__ and "workspace" in takes:
                    setattr(module, name, self.killed(name, function))
        init = Experiment.__init__

        def wrapped(experiment: Any, *args: Any, **kwargs: Any) -> None:
            init(experiment, *args, **kwargs)
            tasks = {name: self.killed(name, task) for name, task in experiment.tasks.items()}
            object.__setattr__(experiment, "tasks", tasks)

        Experiment.__init__ = wrapped  # type: ignore[method-assign, assignment]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.project = nodeid.split("/")[2]

    def killed(self, name: str, task: Callable[..., object]) -> Callable[..., object]:
        """The task, which is killed several times before it runs."""

        @functools.wraps(task, assigned=("__name__", "__doc__"), updated=())
        def run(*args: Any, **kwargs: Any) -> object:
            if self.is_inside:
                return task(*args, **kwargs)
            self.is_inside = True
            try:
                for at in range(MOST):
                    child = forked(until_file, partial(task, *args, **kwargs), at)
                    child.join()
                    if child.exitcode != -signal.SIGKILL:
                        break
                    self.kills[f"{self.project} {name}"] += 1
                return task(*args, **kwargs)
            finally:
                self.is_inside = False

        return run

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Kills by task."""
        for name, count in sorted(self.kills.items()):
            terminalreporter.write_line(f"{name}: {count} kills")


def until_file(task: Callable[[], object], at: int) -> None:
    """Run a task until it has given so many files their names, and die before the next."""
    names = 0

    def dying(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*args: Any, **kwargs: Any) -> Any:
            nonlocal names
            if names == at:
                die()
            names += 1
            return rename(*args, **kwargs)

        return renamed

    os.rename, os.replace = dying(os.rename), dying(os.replace)
    task()
