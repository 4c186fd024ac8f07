"""Exported folders: a ranker (phase II), or a generator (phase I)."""

from pathlib import Path

from common.config import UserError
from common.decoding.sequence_to_sequence import SequenceToSequence
from projects.wikides.encoder import RankerEncoder, load_encoder

RANKER = "modules.json"  # of sentence-transformers
GENERATOR = "generation_config.json"  # of transformers, for what writes texts


def load_exported(folder: str | Path) -> RankerEncoder | SequenceToSequence:
    """What the folder holds, on the CPU and in evaluation mode.

    Raises:
        UserError: neither of both, or a folder that is damaged.
    """
    place = Path(folder)
    if (place / RANKER).is_file():
        return load_encoder(place)
    if (place / GENERATOR).is_file():
        return SequenceToSequence.from_pretrained(str(place), device="cpu")
    raise UserError(
        f"{place} is neither an exported ranker ({RANKER}) nor an exported generator ({GENERATOR})"
    )
