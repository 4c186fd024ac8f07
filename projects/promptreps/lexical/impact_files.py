"""Files of impact indexes, as Lucene's readers (Anserini, Pyserini, PISA's converters) take them.

Documents: JSON lines ``{"id": ..., "content": "", "vector": {token: weight}}`` with whole weights.
Queries: lines ``id<TAB>token token token``, each token as often as its weight says.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.data.row_map.parts import write_joined
from common.data.tables import read_jsonl

Vector = Mapping[int, int]  # token id -> weight


def token_names(vocabulary: Mapping[str, int]) -> dict[int, str]:
    """Id -> token of a tokenizer's vocabulary."""
    return {place: token for token, place in vocabulary.items()}


def write_impacts(
    path: Path, ids: Iterable[str], vectors: Iterable[Vector], names: Mapping[int, str]
) -> None:
    """Write documents, whole or not at all.

    Args:
        path: of the file.
        ids: of N documents.
        vectors: of the documents.
        names: id -> token.

    Raises:
        UserError: a weight that is not whole.
    """
    write_joined(
        path,
        (
            json.dumps(
                {
                    "id": i,
                    "content": "",
                    "vector": {names[t]: _whole(w, path) for t, w in v.items()},
                },
                ensure_ascii=False,
            )
            for i, v in zip(ids, vectors, strict=True)
        ),
    )


def read_impacts(
    path: str | Path, vocabulary: Mapping[str, int] | None = None
) -> tuple[list[str], list[dict[int, int]], dict[str, int]]:
    """Documents of `write_impacts`, or of any other model's impact collection.

    Args:
        path: of the file.
        vocabulary: token -> id; None: ids are given in the order of occurrence.

    Returns:
        Ids, vectors, vocabulary.

    Raises:
        UserError: a missing file, one of another layout, a weight that is not whole, or a token
            that is not in `vocabulary`.
    """
    token_ids = {} if vocabulary is None else dict(vocabulary)
    ids, vectors = [], []
    for number, row in enumerate(read_jsonl(path, ("id", "vector")), 1):
        vector = row["vector"]
        if not isinstance(vector, Mapping):
            raise UserError(f"{path}, row {number}: 'vector' must map tokens to weights")
        for token in vector:
            if token not in token_ids:
                if vocabulary is not None:
                    raise UserError(f"{path}, row {number}: the vocabulary has no token {token!r}")
                token_ids[token] = len(token_ids)
        if not isinstance(row["id"], str | int):
            raise UserError(f"{path}, row {number}: 'id' must be a text or a number")
        ids.append(str(row["id"]))
        place = f"{path}, row {number}"
        vectors.append(
            {token_ids[token]: _whole(weight, place) for token, weight in vector.items()}
        )
    return ids, vectors, token_ids


def query_line(vector: Vector, names: Mapping[int, str]) -> str:
    """A query as text: each token as often as its weight says.

    >>> query_line({4: 2, 1: 1, 0: 0}, {0: "a", 1: "b", 4: "c"})
    'c c b'
    """
    return " ".join(names[token] for token, weight in vector.items() for _ in range(weight))


def write_query_lines(
    path: Path, ids: Sequence[str], vectors: Sequence[Vector], names: Mapping[int, str]
) -> int:
    """Write queries, whole or not at all; those without a weight are left out.

    Returns:
        How many are left out.
    """
    pairs = zip(ids, vectors, strict=True)
    lines = [f"{i}\t{text}" for i, vector in pairs if (text := query_line(vector, names))]
    write_joined(path, lines)
    return len(ids) - len(lines)


def read_query_lines(path: Path) -> dict[str, dict[str, int]]:
    """Query -> token -> weight of `write_query_lines`, or of any other model's query file.

    Raises:
        UserError: a missing file, or one of another layout.
    """
    weights: dict[str, dict[str, int]] = {}
    with reading(path, "file of queries"):
        lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        name, tab, text = line.partition("\t")
        if line and (not tab or name in weights):
            raise UserError(f"{path}, line {number}: expected an id, once, a tab and its tokens")
        if line:
            weights[name] = dict(Counter(text.split(" ")))
    return weights


def _whole(weight: Any, place: object) -> int:
    """The weight as int; one that would lose something is refused."""
    whole = isinstance(weight, Real) and float(weight).is_integer()
    if not whole:
        raise UserError(f"{place}: impact weights are whole numbers, got {weight!r}")
    return int(weight)
