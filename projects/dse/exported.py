"""Exported folders: a student, or a teacher that was trained on its own."""

from pathlib import Path

from common.config import UserError
from common.encoders.text.cross_encoder import CrossEncoder
from common.export.cross_encoder import SETTINGS as TEACHER
from common.export.cross_encoder import load_cross_encoder
from projects.dse.scorer import SETTINGS as STUDENT
from projects.dse.scorer import PairScorer, load_scorer


def load_exported(folder: str | Path) -> PairScorer | CrossEncoder:
    """What the folder holds, in evaluation mode and float32.

    Raises:
        UserError: neither of both, or a folder that is damaged.
    """
    place = Path(folder)
    if (place / TEACHER).is_file():
        return load_cross_encoder(place)
    if (place / STUDENT).is_file():
        return load_scorer(place)
    raise UserError(
        f"{place} is neither an exported DSE student ({STUDENT}) nor an exported teacher"
        f" ({TEACHER})"
    )
