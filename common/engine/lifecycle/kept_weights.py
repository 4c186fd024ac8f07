"""Weights of a trained stage, kept for other runs whose stage of the same settings they are."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.engine.workspace import code_hash


def kept_path(folder: Path, name: str, project: str, settings: Mapping[str, Any]) -> Path:
    """Where the weights of a stage are kept.

    Args:
        folder: of all of them.
        name: of the stage.
        project: slug; its code counts as a setting.
        settings: all that the weights depend on, as plain values.
    """
    parts = {**settings, "code": code_hash(project)}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{name}-{digest}.ckpt"


def keep_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights, whole or not at all; what is there already stays.

    ``Stage(weights=path)`` loads them instead of fitting.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({"state_dict": module.state_dict()}, temporary)
    temporary.replace(path)
