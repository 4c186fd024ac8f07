"""CPU seconds of every test: the budget of each project, a table per folder.

A pytest plugin (registered in ``conftest.py``). A test's seconds are the CPU time of its process,
of the processes it waited for and of the ranks of the pool, over set-up, call and tear-down;
imports of test modules count for the start. xdist's workers send them with their reports, the
controller adds them up. CPU time depends on how fast a machine is, and on who shares its cores:
each process also times a fixed piece of work, and a slower processor stretches the budgets. A
project above its budget is always listed; only a run that asks for it (``make test BUDGETS=fail``,
on an idle machine) fails for that: a test that behaves must not fail because a machine was busy.
"""

import importlib
import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests import preload

PROJECT_BUDGET = 20.0  # tests/projects/<slug>
SMOKE_BUDGET = 12.0  # its smoke test
# CPU time of the same tests differs by a quarter between runs of a day, as two threads share a
# core: what is above its budget is listed, what is further above it fails a run with --cpu-budgets
NOISE = 1.25
SAMPLE_EVERY = 15.0
REFERENCE_SECONDS = 0.06  # of `reference_work` on the machine whose figures docs/ records
START = "start and collection"
SERVERS = "fork servers of the pools"


def cpu_seconds() -> float:
    """CPU time of this process, of children that ended, and of the pool's ranks for it."""
    from tests.distributed import seconds

    children = os.times()
    own = time.process_time() + children.children_user + children.children_system
    return own + seconds.ranks


def living_children_seconds() -> float:
    """CPU time of children that nobody has waited for yet: what imports once for many forks."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(t.user + t.system for t in times)


def reference_work() -> float:
    """CPU seconds of a fixed piece of work like the tests': objects, then numbers."""
    import numpy as np

    matrix = np.ones((128, 128))
    start = time.process_time()
    total = 0
    for index in range(400_000):
        total += len({"index": index, "total": total})
    for _ in range(120):
        matrix = matrix @ matrix / 128
    return time.process_time() - start


def slowness(seconds: Iterable[float]) -> float:
    """How many times slower this machine is than the recorded one; a faster one gets no smaller
    budgets.
    """
    return max(1.0, median(seconds) / REFERENCE_SECONDS)


def project_of(test: str) -> str | None:
    """`tests/projects/<slug>`, or the smoke of a project; what has a budget."""
    folder = re.match(r"tests/projects/\w+(?=/)", test)
    if folder:
        return folder[0]
    smoke = re.match(r"tests/test_smoke\.py::test_smoke\[(\w+)\]", test)
    return f"smoke of {smoke[1]}" if smoke else None


def folder_of(test: str) -> str:
    """The row of a test: its project, its room under `tests/unit`, its folder or its file."""
    path = test.partition("::")[0]
    parts = path.split("/")
    depth = 3 if parts[1] in ("projects", "unit") else 2
    return "/".join(parts[: min(depth, len(parts))])


def overdrawn(seconds: Mapping[str, float], slow: float = 1.0) -> list[str]:
    """A line for each project whose tests take more than its budget, with the three slowest."""
    spent: dict[str, dict[str, float]] = defaultdict(dict)
    for test, value in seconds.items():
        project = project_of(test)
        if project is not None:
            spent[project][test] = value
    lines = []
    for project, tests in sorted(spent.items()):
        smoke = project.startswith("smoke")
        budget = slow * (SMOKE_BUDGET if smoke else PROJECT_BUDGET)
        if sum(tests.values()) > budget:
            slowest = sorted(tests.items(), key=lambda item: -item[1])[:3]
            lines.append(
                f"{project}: {sum(tests.values()):.1f} CPU s, the budget is {budget:.1f}; slowest: "
                + ", ".join(f"{t.rpartition('/')[2]} {s:.1f}" for t, s in slowest)
            )
    return lines


HEAD = """# What the tests cost

Processor time of each folder's tests, all workers together, as `make test TIMES=<file>` measures it. The reference is the machine that the
budgets were set on; another one's slowness is that of a fixed piece of work beside the tests. Nightly tests are left out.
"""


def table(seconds: Mapping[str, float], starts: Mapping[str, float], slow: float) -> list[str]:
    """Markdown: tests and CPU seconds per folder, the slowest test of each."""
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for test, value in seconds.items():
        rows[folder_of(test)][test] = value
    lines = [HEAD, "| folder | tests | CPU s | slowest test | CPU s |", "|---|--:|--:|---|--:|"]
    for folder, tests in sorted(rows.items()):
        test, most = max(tests.items(), key=lambda item: item[1])
        name = test.partition("::")[2].partition("[")[0]
        lines.append(
            f"| {folder} | {len(tests)} | {sum(tests.values()):.1f} | {name} | {most:.1f} |"
        )
    lines += [f"| {name} | | {value:.1f} | | |" for name, value in starts.items()]
    total = sum(seconds.values()) + sum(starts.values())
    lines.append(f"| all | {len(seconds)} | {total:.1f} | | |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {slow:.2f} x the reference's time"
    return [*lines, "", f"Python {platform.python_version()}, {machine}."]


class CpuSeconds:
    """Measures in workers (or without xdist), adds up and judges in the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.seconds: dict[str, float] = defaultdict(float)
        self.starts: dict[str, float] = defaultdict(float)
        self.references: list[float] = []
        self.is_worker = hasattr(config, "workeroutput")
        self._mark = self._sampled = 0.0
        self._ran = False  # a controller of workers runs no test

    def pytest_collection_finish(self) -> None:
        if self.is_worker or self.config.getoption("--cpu-seconds"):
            for name in preload.MODULES:
                importlib.import_module(name)
        self._mark = cpu_seconds()
        self.starts[START] += self._mark
        self.references.append(reference_work())
        self._sampled = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Any:
        self._mark, self._ran = cpu_seconds(), True
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        report = yield
        now = cpu_seconds()
        report.cpu_seconds = now - self._mark  # travels with the report
        if now - self._sampled > SAMPLE_EVERY:  # the load changes
            self.references.append(reference_work())
            self._sampled = now = cpu_seconds()
        self._mark = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.is_worker:
            self.seconds[report.nodeid] += getattr(report, "cpu_seconds", 0.0)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        sent = getattr(node, "workeroutput", {}).get("cpu_seconds")
        if sent is not None:
            self.references += sent["references"]
            for name, value in sent["starts"].items():
                self.starts[name] += value

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._ran:
            self.starts[SERVERS] += living_children_seconds()
        if self.is_worker:
            sent = {"references": self.references, "starts": dict(self.starts)}
            self.config.workeroutput["cpu_seconds"] = sent  # type: ignore[attr-defined]
        elif (
            session.exitstatus == 0
            and self.config.getoption("--cpu-budgets")
            and overdrawn(self.seconds, NOISE * slowness(self.references))
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.seconds:
            return
        slow = slowness(self.references)
        path = self.config.getoption("--cpu-seconds")
        if path:
            lines = table(self.seconds, self.starts, slow)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
            terminalreporter.section("CPU seconds")
            terminalreporter.write("\n".join(lines) + "\n")
        over = overdrawn(self.seconds, slow)
        if over:
            terminalreporter.section("projects over their budget of CPU seconds", red=True)
            terminalreporter.write("\n".join(over) + "\n")
