"""Texts as dense vectors and weighted tokens; two searches, one ranking.

A text may have several representations; see `common.evaluation.retrieval.fusion.max_sum`.

# n representations, D dim
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from common.evaluation.retrieval.fusion import linear_fusion, max_sum
from common.evaluation.retrieval.ranking import to_run
from common.evaluation.search import SearchResult
from common.evaluation.search import search as nearest
from projects.promptreps.lexical.impact_index import ImpactIndex

NamedRun = dict[str, dict[str, float]]
DEPTH = 1000


class Encoded(TypedDict):
    """Representations of texts, those of a text one after the other."""

    dense: Tensor  # (n, D) float
    sparse: list[dict[int, int]]  # n times token id -> weight
    owner: Tensor  # (n,) int64, ascending: which text


class Found(NamedTuple):
    """What a query found."""

    fused: list[tuple[str, float]]  # document and score, best first
    dense: dict[str, float]  # the two runs behind it
    sparse: dict[str, float]


def single(dense: Tensor, sparse: list[dict[int, int]]) -> Encoded:
    """One representation for each of n texts."""
    return {"dense": dense, "sparse": sparse, "owner": torch.arange(len(sparse))}


def of_texts(encoded: Encoded, first: int, last: int) -> Encoded:
    """The representations of some texts in a row, counted from 0 again."""
    begin, end = torch.searchsorted(encoded["owner"], torch.tensor([first, last])).tolist()
    return {
        "dense": encoded["dense"][begin:end],
        "sparse": encoded["sparse"][begin:end],
        "owner": encoded["owner"][begin:end] - first,
    }


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Texts of several calls, one after the other."""
    owners, start = [], 0
    for part in parts:
        owners.append(part["owner"] + start)
        start += int(part["owner"].max()) + 1
    return {
        "dense": torch.cat([part["dense"] for part in parts]),
        "sparse": [vector for part in parts for vector in part["sparse"]],
        "owner": torch.cat(owners),
    }


def _places(owner: Tensor) -> Tensor:
    """Which representation of its text each one is, (n,)."""
    begins = torch.searchsorted(owner, owner)
    return torch.arange(len(owner)) - begins


class DenseIndex:
    """Exact search by inner product.

    The first, second, ... representations are collections of their own.

    Args:
        encoded: of the documents.
        ids: of the documents, unique.
    """

    def __init__(self, encoded: Encoded, ids: Sequence[str]) -> None:
        self.parts: list[tuple[Tensor, list[str]]] = []
        places = _places(encoded["owner"])
        for place in range(int(places.max()) + 1):
            rows = places == place
            owners = [ids[i] for i in encoded["owner"][rows].tolist()]
            self.parts.append((encoded["dense"][rows], owners))

    def runs(self, queries: Tensor, names: Sequence[str], depth: int, same: bool) -> list[NamedRun]:
        """The nearest documents in every part, for n query vectors (n, D)."""
        return [
            named(
                nearest(queries, part, min(depth + same, len(part)), metric="dot"),
                names,
                owners,
                depth,
                same,
            )
            for part, owners in self.parts
        ]


class SparseIndex:
    """The same by weighted tokens."""

    def __init__(self, encoded: Encoded, ids: Sequence[str]) -> None:
        self.parts: list[tuple[ImpactIndex, list[str]]] = []
        places = _places(encoded["owner"])
        for place in range(int(places.max()) + 1):
            rows = (places == place).nonzero()[:, 0].tolist()
            owners = [ids[int(encoded["owner"][i])] for i in rows]
            self.parts.append((ImpactIndex([encoded["sparse"][i] for i in rows]), owners))

    def runs(
        self, queries: Sequence[Mapping[int, int]], names: Sequence[str], depth: int, same: bool
    ) -> list[NamedRun]:
        """The best documents in every part, for n query vectors."""
        return [
            named(part.search(queries, depth + same), names, owners, depth, same)
            for part, owners in self.parts
        ]


def component_runs(
    dense_index: DenseIndex | None,
    sparse_index: SparseIndex | None,
    queries: Encoded,
    names: Sequence[str],
    depth: int = DEPTH,
    *,
    remove_query: bool = False,
) -> tuple[NamedRun, NamedRun]:
    """What each of the two searches finds for queries.

    Args:
        dense_index: of the documents; None: that run is empty.
        sparse_index: the same.
        queries: representations of the queries.
        names: ids of the queries.
        depth: documents of a query, in each list.
        remove_query: leave out the document whose id is that of the query.

    Returns:
        The dense and the sparse run.
    """
    places = _places(queries["owner"])
    lists: tuple[list[list[NamedRun]], list[list[NamedRun]]] = ([], [])
    for place in range(int(places.max()) + 1):
        rows = (places == place).nonzero()[:, 0]
        owners = [names[i] for i in queries["owner"][rows].tolist()]
        if dense_index is not None:
            lists[0].append(dense_index.runs(queries["dense"][rows], owners, depth, remove_query))
        if sparse_index is not None:
            vectors = [queries["sparse"][i] for i in rows.tolist()]
            lists[1].append(sparse_index.runs(vectors, owners, depth, remove_query))
    dense, sparse = (
        (
            blocks[0][0]
            if [len(runs) for runs in blocks] == [1]
            else max_sum(blocks, depth=depth)
            if blocks
            else {}
        )
        for blocks in lists
    )
    return dense, sparse


def fuse(
    dense: NamedRun, sparse: NamedRun, alpha: float = 0.5, depth: int | None = None
) -> NamedRun:
    """``alpha dense + (1 - alpha) sparse`` of scores scaled to [0, 1] within a query and run.

    The only hit of a query in a run, and hits of equal scores, have 0 there.

    Source: Zhuang et al. 2024, "PromptReps", section 3, arXiv 2404.18424.

    Args:
        dense: query -> document -> score.
        sparse: the same.
        alpha: in [0, 1].
        depth: documents kept of a query; None: all.

    Raises:
        ValueError: `alpha` out of its range.

    >>> fuse({"q": {"a": 0.9, "b": 0.5}}, {"q": {"b": 30.0}})
    {'q': {'a': 0.5, 'b': 0.0}}
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    fused = linear_fusion([dense, sparse], [alpha, 1 - alpha], depth=depth, flat=0.0)
    return {query: dict(hits) for query, hits in fused.items()}


def search(
    dense_index: DenseIndex,
    sparse_index: SparseIndex,
    query: Encoded,
    alpha: float = 0.5,
    depth: int = DEPTH,
) -> Found:
    """Both searches for one query, and their fusion.

    Args:
        dense_index: of the documents.
        sparse_index: of the same documents.
        query: the query, as encoded.
        alpha: in [0, 1], weight of the dense scores.
        depth: documents of each list.
    """
    dense, sparse = component_runs(dense_index, sparse_index, query, ["query"], depth)
    fused = fuse(dense, sparse, alpha, depth)
    return Found(list(fused["query"].items()), dense["query"], sparse["query"])


def named(
    result: SearchResult, queries: Sequence[str], documents: Sequence[str], depth: int, same: bool
) -> NamedRun:
    """At most `depth` hits of each query by id; with `same`, without the query itself."""
    run = to_run(result, queries, documents, drop_identical=same)
    return {query: dict(list(hits.items())[:depth]) for query, hits in run.items()}
