"""Queries from a file or the keyboard, nearest texts of a file or folder printed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from common.config import UserError
from common.evaluation.retrieval.beir import has_corpus, load_corpus
from common.evaluation.retrieval.options import SearchConfig
from common.evaluation.retrieval.text_index import TextIndex

KINDS = (".txt", ".md")  # files of a folder that are read


def search_texts(index: TextIndex, options: SearchConfig) -> None:
    """Print the nearest texts of each query.

    Args:
        index: the collection.
        options: section of the config; its `file` and `run` are the caller's part.

    Raises:
        UserError: a file of queries that is missing or empty.
    """
    print(f"{len(index)} texts indexed")  # noqa: T201
    for query in read_texts(options.queries) if options.queries else _asked():
        print(f"\n{query}")  # noqa: T201
        (hits,) = index.search([query], options.k, options.threshold)
        for hit in hits:
            print(f"  {hit.score:6.3f}  {hit.text}")  # noqa: T201
        if not hits:
            name = "cosine" if index.metric == "cosine" else "score"
            print(f"  no text has a {name} of {options.threshold} or more")  # noqa: T201


def read_texts(place: str | Path) -> list[str]:
    """Texts of a file, one a line, or of a folder, see `SearchConfig.file`.

    Raises:
        UserError: nothing is there, or no text in it.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        found = list(load_corpus(path).values()) if has_corpus(path) else _paragraphs(path)
    elif path.is_file():
        found = path.read_text(encoding="utf-8").splitlines()
    else:
        raise UserError(f"text file {path} does not exist")
    found = [text.strip() for text in found if text.strip()]
    if not found:
        raise UserError(f"{path} holds no text")
    return found


def _paragraphs(folder: Path) -> Sequence[str]:
    """What blank lines divide, each on one line, of the files in the order of their names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in KINDS)
    parts: list[str] = []
    for file in files:
        part: list[str] = []
        for line in (*file.read_text(encoding="utf-8").splitlines(), ""):
            if line.strip():
                part.append(line.strip())
            elif part:
                parts.append(" ".join(part))
                part = []
    return parts


def _asked() -> Iterator[str]:
    while True:
        try:
            query = input("\nquery (empty line to end): ").strip()
        except EOFError:
            print()  # noqa: T201
            return
        if not query:
            return
        yield query
