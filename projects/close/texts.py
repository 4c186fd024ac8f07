"""Plain text as the only training data: a book, a web page, or a language model's texts."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from common.config import UserError
from common.data.lines import read_lines


def read_texts(path: Path, min_words: int, max_words: int, replace: Mapping[str, str]) -> list[str]:
    """Sentences of a file; a warning counts those of other lengths.

    Args:
        path: one sentence per line, or with the suffix ``.json`` a list of strings.
        min_words: shorter sentences are left out.
        max_words: longer sentences are left out.
        replace: whole words (names, places) and what stands there instead.

    Raises:
        UserError: no such file, no list of strings, or no sentence of these lengths.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give a text file with one sentence per line")
    lines = read_lines(path) if path.suffix != ".json" else _strings(path)
    texts, total = [], 0
    for line in lines:
        total += bool(line.strip())
        text = " ".join(line.split())
        for word, other in replace.items():
            text = re.sub(rf"\b{re.escape(word)}\b", other, text)
        if min_words <= len(text.split()) <= max_words:
            texts.append(text)
    if not texts:
        raise UserError(
            f"{path} has no line of {min_words} to {max_words} words: see data.min_words,"
            " data.max_words"
        )
    if left_out := total - len(texts):
        warnings.warn(
            f"{path}: {left_out} of {total} lines have fewer than {min_words} or more than"
            f" {max_words} words and are left out (data.min_words, data.max_words)",
            stacklevel=2,
        )
    return texts


def _strings(path: Path) -> list[str]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(stored, list) or not all(isinstance(x, str) for x in stored):
        raise UserError(f"{path} must contain a list of strings, as TASK=generate writes it")
    return stored
