"""Which tests one xdist worker gets together: users of the pool, users of the evidence, else a
file.

Starting a pool costs a quarter of a minute of CPU time, and so does the evidence of all projects,
so a run does both once. xdist's own groups (`--dist loadgroup`) cannot say so: they are written
into node ids, which pytest 9.2 and later ignores without a word. Here the controller reads who uses
the pool from the source of a test file; who looks at the evidence is listed.
"""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

POOL = "pool"
EVIDENCE = "evidence"
# one worker parses the code of every project once, then has the rows
EVIDENCE_FILES = frozenset(
    {
        "tests/test_docs.py",
        "tests/unit/engine/test_comparison_evidence.py",
        "tests/unit/engine/test_dependencies.py",
        "tests/unit/engine/test_report.py",
    }
)
POOL_FIXTURES = frozenset({"pool", "two_ranks"})


@cache
def users_of_the_pool(path: Path) -> frozenset[str]:
    """Names of the functions in a file that take the pool, themselves or by a fixture there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    arguments = {
        node.name: {argument.arg for argument in node.args.args}
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    users = POOL_FIXTURES
    while more := {name for name, taken in arguments.items() if taken & users} - users:
        users = users | more
    return users


def group_of(test: str, root: Path) -> str:
    """The group of a test, by its node id."""
    path, _, name = test.partition("::")
    function = name.partition("[")[0].rpartition("::")[2]
    if function in users_of_the_pool(root / path):
        return POOL
    return EVIDENCE if path in EVIDENCE_FILES else path


def long_ones_first(groups: Iterable[str]) -> list[str]:
    """Files of tests/ itself before the folders: few tests that start programs, half a minute each.

    By their number of tests they would come last, and one worker would wait for the other's.
    """
    return sorted(groups, key=lambda group: not group.startswith("tests/test_"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers get whole groups, those that take long first, then the one with the most tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid, config.rootpath)

        def schedule(self) -> None:
            super().schedule()
            for group in reversed(long_ones_first(self.workqueue)):
                self.workqueue.move_to_end(group, last=False)

    return Groups(config, log)
