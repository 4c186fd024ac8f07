"""Where a task computes: passes within `evaluated`, and with which accelerator."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
from torch import nn

from common.encoders.modes import evaluated


def passes_within_evaluated(
    monkeypatch: pytest.MonkeyPatch,
    tasks: ModuleType,
    watched: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> list[tuple[nn.Module, str]]:
    """(module given to `evaluated`, accelerator) of every forward pass while it holds; grows as the
    task runs.

    Args:
        monkeypatch: pytest's.
        tasks: module whose `evaluated` is replaced by one that stays on the CPU.
        watched: the part of such a module whose passes count.
    """
    seen: list[tuple[nn.Module, str]] = []

    @contextmanager
    def spy(module: nn.Module, accelerator: str) -> Iterator[None]:
        hook = watched(module).register_forward_hook(lambda *_: seen.append((module, accelerator)))
        with evaluated(module, "cpu"), hook:
            yield

    monkeypatch.setattr(tasks, "evaluated", spy)
    return seen
