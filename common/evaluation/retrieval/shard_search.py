"""Search in shards that memory can't hold: exact in blocks, or by an approximate index of faiss.

Legend: Q queries, N vectors, D dimension, K results.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.matrices import Indices, Metric, index_pairs
from common.evaluation.retrieval.vector_shards import VectorShards
from common.evaluation.search import SearchResult, search
from common.files import replacing

IndexKind = Literal["flat", "ivfpq", "hnsw"]
BLOCK_BYTES = 1 << 26  # of vectors that are compared at a time
PER_LIST = 40  # vectors of a list of an IVF-PQ index that its training sees
PQ_BYTES = 64  # of a vector
RESCORED = 4  # candidates of IVF-PQ per result, which are compared exactly
NPROBE, EF_SEARCH, HNSW_LINKS = 64, 256, 32


def search_shards(
    query: Tensor,
    shards: VectorShards,
    k: int,
    *,
    metric: Metric = "cosine",
    exclude: Indices | None = None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> SearchResult:
    """The ``k`` nearest of all vectors, exactly; only one block is in memory at a time.

    Args:
        query: (Q, D).
        shards: of the corpus.
        k: results per query.
        metric: "cosine" or "dot".
        exclude: rows that must not be returned, one per query or a list per query.
        device: where products are computed.
        part: (i, n) searches the shards i, i + n, ... only; `merge_results` joins the n results.

    Returns:
        Scores (Q, K) and row numbers (Q, K) on the CPU, best first, equal scores by ascending row.
        Where fewer than K rows are left, score ``-inf`` and row -1.

    Raises:
        ValueError: shapes do not fit, or ``k`` is larger than what is left of the corpus.
    """
    pairs = index_pairs(
        [[]] * len(query) if exclude is None else exclude, len(query), len(shards), "exclude"
    )
    most = int(torch.bincount(pairs[:, 0]).max()) if len(pairs) else 0
    if not 1 <= k <= len(shards) - most:
        raise ValueError(f"k must lie in [1, {len(shards) - most}], got {k}")
    query = query.to(device)
    size = max(1, BLOCK_BYTES // (4 * query.shape[1]))
    best = _nothing(len(query), k)
    for start, rows in shards.blocks(size, part):
        vectors = torch.from_numpy(np.array(rows)).to(device)  # a map is read-only
        found = search(query, vectors, min(k + most, len(vectors)), metric=metric)
        scores, places = found.scores.cpu(), found.indices.cpu() + start
        if len(pairs):
            inside = pairs[(pairs[:, 1] >= start) & (pairs[:, 1] < start + len(rows))]
            scores, places = _without(scores, places, inside, len(shards))
        best = merge_results([best, SearchResult(scores, places)], k)
    return best


def merge_results(results: Sequence[SearchResult], k: int) -> SearchResult:
    """The K best of several searches of disjoint rows; equal scores by ascending row.

    Args:
        results: (Q, K_i) each.
        k: at most the sum of all K_i.

    >>> a = SearchResult(torch.tensor([[2.0, 1.0]]), torch.tensor([[7, 3]]))
    >>> b = SearchResult(torch.tensor([[2.0]]), torch.tensor([[5]]))
    >>> merge_results([a, b], 2).indices.tolist()
    [[5, 7]]
    """
    scores = torch.cat([r.scores for r in results], dim=1)
    rows = torch.cat([r.indices for r in results], dim=1)
    by_row = rows.argsort(dim=1, stable=True)
    scores, rows = scores.gather(1, by_row), rows.gather(1, by_row)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return SearchResult(scores[:, :k], rows.gather(1, order[:, :k]))


def _nothing(count: int, k: int) -> SearchResult:
    return SearchResult(torch.full((count, k), -torch.inf), torch.full((count, k), -1))


def _without(scores: Tensor, rows: Tensor, pairs: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Results without some pairs (query, row), whose places become empty."""
    keys = rows + torch.arange(len(rows))[:, None] * total
    gone = torch.isin(keys, pairs[:, 0] * total + pairs[:, 1])
    return scores.masked_fill(gone, -torch.inf), rows.masked_fill(gone, -1)


class ApproximateIndex:
    """An index of faiss over shards, built once and memory-mapped where its kind allows it.

    Args:
        shards: of the corpus; the index is a file of their folder.
        kind: "ivfpq" (64 bytes a vector; its candidates are compared exactly) or "hnsw" (the
            vectors and their links, in memory).
        metric: "cosine" or "dot".

    Source: Jegou et al. 2011, "Product quantization for nearest neighbor search"; Malkov &
    Yashunin 2018, "HNSW", arXiv 1603.09320.

    Raises:
        UserError: too few vectors for IVF-PQ.
    """

    def __init__(self, shards: VectorShards, kind: IndexKind, metric: Metric) -> None:
        import faiss

        self.shards, self.metric, self.kind = shards, metric, kind
        path = shards.folder / f"{kind}-{metric}.faiss"
        if not path.is_file():
            built = _build(shards, kind, metric)
            with replacing(path) as temporary:
                faiss.write_index(built, str(temporary))
            del built
        flags = faiss.IO_FLAG_MMAP if kind == "ivfpq" else 0
        self.index: Any = faiss.read_index(str(path), flags)

    def search(self, query: Tensor, k: int) -> SearchResult:
        """About the ``k`` nearest of every query; row -1 with score ``-inf`` where fewer are found.

        Args:
            query: (Q, D).
            k: results per query.
        """
        rows = _unit(query.float().cpu().numpy(), self.metric)
        if self.kind == "ivfpq":
            self.index.nprobe = min(NPROBE, self.index.nlist)
            _, places = self.index.search(rows, min(RESCORED * k, len(self.shards)))
            scores = self._scores(rows, places)
        else:
            self.index.hnsw.efSearch = max(EF_SEARCH, k)
            scores, places = self.index.search(rows, k)
        scores = np.where(places < 0, -np.inf, scores)
        found = SearchResult(torch.from_numpy(scores), torch.from_numpy(places))
        return merge_results([_nothing(len(rows), k), found], k)

    def _scores(self, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Exact products of every query with its candidates."""
        scores = np.empty(places.shape, np.float32)
        for row, candidates in enumerate(places):
            vectors = self.shards.take(np.maximum(candidates, 0))
            scores[row] = _unit(vectors, self.metric) @ query[row]
        return scores


def _build(shards: VectorShards, kind: IndexKind, metric: Metric) -> Any:
    import faiss

    dim = shards.rows(0).shape[1]
    product = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index: Any = faiss.IndexHNSWFlat(dim, HNSW_LINKS, product)
    else:
        lists = min(int(4 * len(shards) ** 0.5), len(shards) // PER_LIST)
        if len(shards) < 1024 or dim < 8:
            raise UserError(
                f"eval.index=ivfpq needs 1,024 passages and 8 dimensions, got "
                f"{len(shards)} and {dim}: use eval.index=flat"
            )
        parts = next(m for m in range(min(PQ_BYTES, dim // 4), 0, -1) if dim % m == 0)
        index = faiss.index_factory(dim, f"IVF{lists},PQ{parts}", product)
        index.train(_sample(shards, PER_LIST * lists, metric))
    size = max(1, BLOCK_BYTES // (4 * dim))
    for _, rows in shards.blocks(size):
        index.add(_unit(rows, metric))
    return index


def _sample(shards: VectorShards, count: int, metric: Metric) -> np.ndarray:
    """Evenly spaced vectors, at least `count`."""
    step = max(1, len(shards) // count)
    return np.concatenate([_unit(shards.rows(i)[::step], metric) for i in range(shards.num_shards)])


def _unit(rows: np.ndarray, metric: Metric) -> np.ndarray:
    rows = np.array(rows)  # a map is read-only
    if metric == "dot":
        return rows
    return F.normalize(torch.from_numpy(rows), dim=1).numpy()
