"""Submission files of GLUE's leaderboard."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.text.labelled.glue_tasks import GlueTask
from common.files import write_text

HEADER = "index\tprediction"
TOP = 5.0  # of STS-B's scores


def submission_lines(task: GlueTask, index: Sequence[str], logits: np.ndarray) -> list[str]:
    r"""Header and one line an input, as the leaderboard reads them.

    Classes by their names in the official files (0 and 1, or entailment ...); scores of STS-B
    clamped to [0, 5].

    Source: gluebenchmark.com, FAQ (format of a submission).

    Args:
        task: see `common.data.text.labelled.glue.GLUE`.
        index: N, of the test file.
        logits: (N, C), or (N, 1) of STS-B.

    Raises:
        ValueError: shapes that do not fit.

    >>> submission_lines(GlueTask("x", ("no", "yes"), ("a", "label"), {}), ["0"], np.array([[0.2, 0.9]]))
    ['index\tprediction', '0\tyes']
    """
    if logits.shape != (len(index), len(task.classes)):
        raise ValueError(f"{task.name}: logits {logits.shape} for {len(index)} inputs")
    if task.is_regression:
        answers = [f"{x:.3f}" for x in np.clip(logits[:, 0], 0, TOP)]
    else:
        answers = [task.labels[i] for i in logits.argmax(1)]
    return [HEADER, *(f"{i}\t{x}" for i, x in zip(index, answers, strict=True))]


def write_submission(
    folder: Path, task: GlueTask, part: str, index: Sequence[str], logits: np.ndarray
) -> Path:
    """Write the file of a test part; returns it.

    Raises:
        UserError: a part that is not submitted.
    """
    if part not in task.submission:
        raise UserError(f"{task.name}: the part '{part}' has no submission file")
    path = folder / task.submission[part]
    write_text(path, "\n".join(submission_lines(task, index, logits)) + "\n")
    return path
