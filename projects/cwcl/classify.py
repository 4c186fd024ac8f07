"""Nearest texts for pictures or recordings of your own (``TASK=classify``)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from common.config import UserError
from common.engine.workspace import Workspace
from common.files import write_text
from projects.cwcl.config import ClassifyConfig


class Exported(Protocol):
    """An exported model of either pair of modalities."""

    def classify(self, inputs: Sequence[str], texts: Sequence[str], /) -> Tensor:
        """Probabilities (N, T) that a text belongs to a file."""
        ...


def classify(asked: ClassifyConfig, load: Callable[[str], Exported], workspace: Workspace) -> None:
    """Print the nearest text of every file, and write all probabilities as JSON lines.

    Args:
        asked: exported folder, files, texts, output.
        load: reads the folder.
        workspace: prints.

    Raises:
        UserError: one of them is missing, a text stands there twice, or a file cannot be read.
    """
    if asked.run is None or not asked.inputs or not asked.texts:
        raise UserError(
            "TASK=classify needs classify.run (an exported folder), classify.inputs and "
            "classify.texts"
        )
    if len(set(asked.texts)) < len(asked.texts):
        raise UserError("classify.texts names a text twice")
    lines = []
    probabilities = load(asked.run).classify(asked.inputs, asked.texts)
    for name, row in zip(asked.inputs, probabilities, strict=True):
        best = int(row.argmax())
        scores = dict(zip(asked.texts, [round(p, 6) for p in row.tolist()], strict=True))
        lines.append(json.dumps({"input": name, "text": asked.texts[best], "scores": scores}))
        workspace.say(f"{name}: {asked.texts[best]} ({float(row[best]):.2f})")
    if asked.output is not None:
        output = Path(asked.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, "\n".join(lines) + "\n")
