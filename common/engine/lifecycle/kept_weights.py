"""Weights of a trained stage, kept for other runs whose stage of the same settings they are."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.engine.checkpoint import write
from common.engine.provenance import code_identity


def kept_path(folder: Path, name: str, project: str, settings: Mapping[str, Any]) -> Path:
    """Where the weights of a stage are kept.

    Args:
        folder: of all of them.
        name: of the stage.
        project: slug.
        settings: all that the weights depend on besides the code, as plain values.
    """
    parts = {**settings, "project": project, "code": code_identity()}
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{name}-{digest}.ckpt"


def keep_weights(path: Path, module: nn.Module) -> None:
    """Write a module's weights, whole or not at all; what is there already stays.

    ``Stage(weights=path)`` loads them instead of fitting.
    """
    if not path.is_file():
        write({"state_dict": module.state_dict()}, path)
