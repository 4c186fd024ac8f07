"""Runs that die by SIGKILL, and the equality of what two runs leave behind."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.engine import checkpoint as ckpt
from tests.forked import forked


def die(*_: object, **__: object) -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_checkpoint(stage: str, step: int) -> None:
    """From now on this process dies once a stage has written its checkpoint of a step."""
    save = ckpt.RunCheckpoint.save

    def save_and_die(self: Any, trainer: Any, module: Any) -> Any:
        path = save(self, trainer, module)
        if self.folder.name == stage and trainer.global_step == step:
            die()
        return path

    ckpt.RunCheckpoint.save = save_and_die  # type: ignore[method-assign]


def assert_killed(target: Callable[..., None], *args: object) -> None:
    """Run a function in a process of its own, which has to die by SIGKILL."""
    process = forked(target, *args)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def final_state(run: Path, stage: str) -> dict[str, Any]:
    """Weights, optimiser and step of the last checkpoint of a stage."""
    path = ckpt.newest_intact(run / "checkpoints" / stage)[0]
    assert path is not None
    content = ckpt.load(path)
    return {k: content[k] for k in ("state_dict", "optimizer_states", "global_step")}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """All tensors and numbers of a nested state by their path."""
    if isinstance(value, dict):
        return {k: v for key, sub in value.items() for k, v in flat(sub, f"{prefix}/{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), prefix)
    return {prefix: value}


def same(left: Any, right: Any) -> bool:
    """Whether two nested states are equal bit for bit (NaN equals NaN)."""
    a, b = flat(left), flat(right)
    return a.keys() == b.keys() and all(_equal(value, b[name]) for name, value in a.items())


def _equal(left: Any, right: Any) -> bool:
    if torch.is_tensor(left) and torch.is_tensor(right):
        return torch.equal(left.nan_to_num(7), right.nan_to_num(7))
    return bool(left == right or (left != left and right != right))
