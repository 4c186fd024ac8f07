"""Code search: pairs of a query and a function, collections, and readers of public sets.

- `read_code_search_net`: CodeSearchNet as CodeBERT filtered it, in
  ``<language>/{train,valid,test,codebase}.jsonl``.
- `joined_rows`: its originals and lists of URLs, in ``<language>/*.txt`` and
  ``<language>/final/jsonl/<part>/*.jsonl.gz``.
- `read_cosqa`: CoSQA, in ``cosqa-retrieval-*.json`` and ``code_idx_map.txt``, or in
  ``codebase.jsonl.gz`` and ``dev.jsonl.gz``.
- `bundled_docstrings`: docstrings of this repository, in ``code-python-doc/{train,test}.jsonl.gz``.

Sources: Husain et al. 2019, arXiv 1909.09436; Feng et al. 2020 (CodeBERT), arXiv 2002.08155; Huang
et al. 2021 (CoSQA), arXiv 2105.13239.
"""

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import Any, Literal

import numpy as np

from common.config import UserError
from common.damage import reading
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.tables import Row, read_jsonl
from projects.cocosoda.code.lexer import plain_code
from projects.cocosoda.code.types import Language

Part = Literal["train", "valid", "test"]
PIECES = "bpe_token_type_role"  # [[piece, type], ...], as the release of CoCoSoDa names it
_DEV_SHARE = 0.06  # of the bundled modules
_LIMIT_STREAM = 2**31 + 83
_HIDDEN = "f"  # what a function is called whose name is hidden


@dataclass(frozen=True)
class CodePair:
    """A function and what it is asked for by.

    Attributes:
        key: identity of the function; two pairs of one key have the same code.
        pieces: of a tokenizer, and the type of each; None: found when they are needed.
    """

    query: str
    code: str
    language: Language
    key: str
    pieces: tuple[tuple[str, ...], tuple[str, ...]] | None = None


@dataclass(frozen=True)
class CodeSearchSet:
    """Queries and the collection in which each has one function, or several of one key.

    Attributes:
        gold: key of each query's function; no function of the collection need have it.
        keys: of the functions.
    """

    name: str
    queries: list[str]
    gold: list[str]
    codes: list[str]
    keys: list[str]

    @property
    def gold_places(self) -> list[list[int]]:
        """Places of each query's functions in the collection, ascending; empty if it is missing."""
        places: dict[str, list[int]] = {}
        for place, key in enumerate(self.keys):
            places.setdefault(key, []).append(place)
        return [places.get(key, []) for key in self.gold]


def set_of_pairs(name: str, pairs: Sequence[CodePair]) -> CodeSearchSet:
    """The collection of the functions of some pairs, each asked for by its query."""
    return CodeSearchSet(
        name,
        [pair.query for pair in pairs],
        [pair.key for pair in pairs],
        [pair.code for pair in pairs],
        [pair.key for pair in pairs],
    )


# -- CodeSearchNet -------------------------------------------------------------------------------


def read_code_search_net(folder: Path, language: Language, part: Part = "train") -> list[CodePair]:
    """Pairs of a part; the query is the docstring's tokens, the code the function's.

    Valid and test rows have no code: their functions are in the code base.

    Args:
        folder: holds the folders of the languages.
        language: one of them.
        part: file without its suffix.

    Raises:
        UserError: a file is missing or broken.
    """
    return [_csn_pair(row, language) for row in _csn_rows(folder, language, part)]


def code_search_net_set(folder: Path, language: Language, part: Part = "test") -> CodeSearchSet:
    """Queries of a part and the whole code base of the language.

    Args:
        folder: see `read_code_search_net`.
        language: of the set, and its name.
        part: "valid" or "test".

    Raises:
        UserError: a file is missing or broken.
    """
    asked = read_code_search_net(folder, language, part)
    base = [_csn_pair(row, language) for row in _csn_rows(folder, language, "codebase")]
    return CodeSearchSet(
        language,
        [pair.query for pair in asked],
        [pair.key for pair in asked],
        [pair.code for pair in base],
        [pair.key for pair in base],
    )


def listed_urls(folder: Path, part: str) -> list[str]:
    """URLs of a part in the order of its list, one a line, see `joined_rows`; some hold blanks."""
    path = folder / f"{part}.txt"
    with reading(path, "list of URLs in UTF-8"), path.open(encoding="utf-8-sig") as file:
        return [url for line in file if (url := line.strip())]


def joined_rows(folder: Path, part: str) -> list[Row]:
    """Rows of the original archives whose URLs a list names, in its order.

    Code is left out of valid and test rows, the docstring of those of the code base, which is
    searched in the originals of valid and test. URLs without a row are left out.

    Args:
        folder: of a language: ``<part>.txt`` and ``final/jsonl/<part>/*.jsonl.gz``.
        part: train, valid, test or codebase.

    Raises:
        UserError: the list or the archives are missing, or no URL is in them.
    """
    listed = folder / f"{part}.txt"
    parts = ("valid", "test") if part == "codebase" else (part,)
    files = [f for p in parts for f in sorted((folder / "final" / "jsonl" / p).glob("*.jsonl*"))]
    if not listed.is_file() or not files:
        raise UserError(
            f"{folder} needs {part}.txt (URLs, from the data of GraphCodeBERT's code search) and"
            f" the archives of CodeSearchNet, final/jsonl/{parts[0]}/*.jsonl.gz"
        )
    urls = listed_urls(folder, part)
    needed, by_url = set(urls), dict[str, Row]()
    for file in files:
        for row in _lines(file):
            if row.get("url") in needed:
                by_url[row["url"]] = row
    names = ("url", "language", "code_tokens", "docstring_tokens", "original_string")
    blank = {"codebase": ("docstring_tokens",), "valid": ("code_tokens", "original_string")}
    blank["test"] = blank["valid"]
    rows = []
    for url in urls:
        if url in by_url:
            row = {name: by_url[url].get(name, "") for name in names}
            rows.append(row | {name: type(row[name])() for name in blank.get(part, ())})
    if not rows:
        raise UserError(f"none of the URLs of {listed} is in the archives next to it")
    return rows


def _csn_rows(folder: Path, language: str, part: str) -> Iterator[Row]:
    place = folder / language
    path = next(
        (p for p in (place / f"{part}.jsonl", place / f"{part}.jsonl.gz") if p.is_file()), None
    )
    if path is None:
        raise UserError(
            f"{place} has no {part}.jsonl with url, code_tokens and docstring_tokens: write it"
            " with TASK=prepare from the archives of CodeSearchNet (see the card, Data), or set"
            " data.root"
        )
    return _lines(path)


def _csn_pair(row: Row, language: Language) -> CodePair:
    stored = row.get(PIECES)
    # a few thousand names come again and again: one string each, and no tuple for every piece
    pieces, kinds = (tuple(intern(str(entry[i])) for entry in stored or ()) for i in (0, 1))
    return CodePair(
        _joined(row["docstring_tokens"]),
        _joined(row["code_tokens"]),
        language,
        str(row["url"]),
        None if stored is None else (pieces, kinds),
    )


def _joined(tokens: str | Sequence[str]) -> str:
    return " ".join(tokens.split() if isinstance(tokens, str) else tokens)


def _lines(path: Path) -> Iterator[Row]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with reading(path, "table of functions"), opened(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                missing = {"url", "code_tokens", "docstring_tokens"} - row.keys()
            except (ValueError, AttributeError):
                raise UserError(f"{path}, line {number} is not a JSON object") from None
            if missing:
                raise UserError(f"{path}, line {number} lacks {', '.join(sorted(missing))}")
            for name in ("code_tokens", "docstring_tokens"):
                if not isinstance(row[name], str | list):
                    raise UserError(
                        f"{path}, line {number}: {name} is neither a list of tokens nor a text"
                    )
            yield row


# -- CoSQA ---------------------------------------------------------------------------------------


def read_cosqa(folder: Path, part: str = "dev") -> CodeSearchSet:
    """Web queries of a part that have an answer, and the collection of all its Python functions.

    Args:
        folder: with the files of the release (``code_idx_map.txt``,
            ``cosqa-retrieval-<part>-*.json``), or with ``codebase.jsonl`` (``_id``, ``code``) and
            ``<part>.jsonl`` (``query``, ``code_id``), each also ``.gz``.
        part: "train", "dev" or "test".

    Raises:
        UserError: a file is missing or broken.
    """
    released = folder / "code_idx_map.txt"
    if released.is_file():
        base = {str(place): " ".join(code.split()) for code, place in _json(released).items()}
        files = sorted(folder.glob(f"cosqa-retrieval-{part}-*.json"))
        if not files:
            raise UserError(f"{folder} has no cosqa-retrieval-{part}-*.json")
        rows = [row for row in _json(files[0]) if row.get("label", 1)]  # 0: no answer, in training
        asked = [(row["doc"], str(row["retrieval_idx"])) for row in rows]
    else:
        rows = read_jsonl(_either(folder, "codebase"), ("_id", "code"))
        base = {str(row["_id"]): _joined(plain_code(row["code"], "python")) for row in rows}
        asked = [
            (row["query"], str(row["code_id"]))
            for row in read_jsonl(_either(folder, part), ("query", "code_id"))
        ]
    queries, gold = ([side[i] for side in asked] for i in (0, 1))
    return CodeSearchSet("cosqa", queries, gold, list(base.values()), list(base))


def cosqa_pairs(folder: Path, part: str = "train") -> list[CodePair]:
    """The same as pairs, for fine-tuning; queries whose function is missing are left out."""
    data = read_cosqa(folder, part)
    return [
        CodePair(query, data.codes[places[0]], "python", gold)
        for query, gold, places in zip(data.queries, data.gold, data.gold_places, strict=True)
        if places
    ]


def _either(folder: Path, name: str) -> Path:
    plain, packed = folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"
    if not plain.is_file() and not packed.is_file():
        raise UserError(
            f"{folder} has neither code_idx_map.txt with cosqa-retrieval-*.json (the release of "
            f"CoSQA) nor {name}.jsonl"
        )
    return plain if plain.is_file() else packed


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


# -- docstrings of installed packages ------------------------------------------------------------


@lru_cache(2)
def bundled_docstrings(
    root: str | None = None, limit: int | None = None, seed: int = 0
) -> Mapping[Part, tuple[CodePair, ...]]:
    """Functions of the standard library and five packages, each with its docstring's first part.

    Valid rows are those of some modules of the training file, by hash. Of valid and test rows those
    are left out whose docstring is a training row's as well.

    Args:
        root: see `common.data.lookup.bundled`.
        limit: training rows, drawn by the seed; None: all.
        seed: of that draw.

    Raises:
        UserError: fewer training rows than `limit`.
    """
    folder = bundled("code-python-doc", root)
    columns = ("module", "name", "doc", "code")
    rows = read_jsonl(folder / "train.jsonl.gz", columns)
    held = [stable_fraction(str(row["module"])) < _DEV_SHARE for row in rows]
    train = [row for row, out in zip(rows, held, strict=True) if not out]
    seen, docs = {row["doc"] for row in train}, {row["doc"] for row in rows}
    dev = [row for row, out in zip(rows, held, strict=True) if out and row["doc"] not in seen]
    test = [row for row in read_jsonl(folder / "test.jsonl.gz", columns) if row["doc"] not in docs]
    if limit is not None:
        if limit > len(train):
            raise UserError(f"data.limit={limit}, but there are {len(train)} training functions")
        order = sample_rng(seed, 0, 0, _LIMIT_STREAM).permutation(len(train))
        train = [train[i] for i in np.sort(order[:limit])]
    return {"train": _pairs(train), "valid": _pairs(dev), "test": _pairs(test)}


def without_name(pair: CodePair) -> CodePair:
    """The pair with the function's own name taken out of its code, wherever it stands.

    >>> without_name(CodePair("Add.", "def add ( a ) : return add ( a )", "python", "m:C.add")).code
    'def f ( a ) : return f ( a )'
    """
    name = re.escape(pair.key.rpartition(":")[2].rpartition(".")[2])
    return replace(pair, code=re.sub(rf"\b{name}\b", _HIDDEN, pair.code))


def _pairs(rows: Sequence[Row]) -> tuple[CodePair, ...]:
    return tuple(
        CodePair(
            row["doc"],
            _joined(plain_code(row["code"], "python")),
            "python",
            f"{row['module']}:{row['name']}",
        )
        for row in rows
    )
