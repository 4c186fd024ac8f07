"""A sentence encoder as a folder, in the format of the library that can hold it."""

from pathlib import Path

from common.encoders.text.sentence import SentenceEncoder
from common.export.sentence_transformers import (
    has_modules,
    load_sentence_transformers,
    save_sentence_transformers,
)
from common.export.transformers import SETTINGS, load_transformers, save_transformers


def save_sentence_encoder(encoder: SentenceEncoder, folder: str | Path) -> Path:
    """Write for sentence-transformers if it has modules for pooling and prompt, else transformers.

    Args:
        encoder: its weights are written in their dtype.
        folder: created if needed; other files in it stay.

    Returns:
        The folder.

    Raises:
        UserError: as `save_transformers`.
    """
    save = save_sentence_transformers if has_modules(encoder) else save_transformers
    return save(encoder, folder)


def load_sentence_encoder(folder: str | Path) -> SentenceEncoder:
    """The encoder of a folder in either format, in eval mode and float32.

    Raises:
        UserError: as `load_transformers` or `load_sentence_transformers`.
    """
    plain = (Path(folder) / SETTINGS).is_file()
    return load_transformers(folder) if plain else load_sentence_transformers(folder)
