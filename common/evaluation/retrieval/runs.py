"""Rankings of a judged set: by embeddings, BM25, TF-IDF; their metrics, over all and by query."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.retrieval.corpus_file import names_of, texts_digest, texts_of
from common.evaluation.encoding import Progress, no_progress
from common.evaluation.matrices import Metric, blocks
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.bm25_files import bm25_on_disk
from common.evaluation.retrieval.ranking import Run, per_query_metrics
from common.evaluation.retrieval.shard_search import ApproximateIndex, IndexKind, search_shards
from common.evaluation.retrieval.vector_shards import EncodeTexts, VectorShards, encode_shards
from common.evaluation.search import SearchResult, search, stable_topk

Lexical = Literal["bm25", "tfidf"]
LEXICAL: tuple[Lexical, ...] = ("bm25", "tfidf")
DEPTH = 100  # documents of a ranking
LARGE = 200_000  # documents of a collection whose BM25 index is in files


@dataclass(frozen=True)
class RunScores:
    """Metrics of one ranking.

    Attributes:
        per_query: metric -> the values of the judged queries, in the order of the judgements, for
            paired comparisons.
    """

    per_query: dict[str, list[float]]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the queries."""
        return {name: float(np.mean(values)) for name, values in self.per_query.items()}


def run_scores(data: RetrievalSet, run: Run, ks: Sequence[int] = (10, 100)) -> RunScores:
    """Metrics of a ranking, see `per_query_metrics`.

    Args:
        data: collection, queries, judgements.
        run: query id -> document id -> score.
        ks: cut-offs.
    """
    rows = per_query_metrics(data.qrels, run, ks)
    names = next(iter(rows.values()))
    return RunScores({name: [row[name] for row in rows.values()] for name in names})


@dataclass(frozen=True)
class OnDisk:
    """Where vectors and words of collections larger than a shard are kept, and how it is searched.

    Attributes:
        folder: gets a folder for each collection and model.
        model_key: names weights and settings of the encoder.
        shard_size: documents of a shard; smaller collections stay in memory.
        index: "flat" is exact; the others see `ApproximateIndex`.
        device: where exact products are computed.
        progress: wraps the loop over the parts of a shard.
        in_memory: largest collection that is not written to files; None: a shard.
    """

    folder: Path
    model_key: Callable[[], str]
    shard_size: int
    index: IndexKind = "flat"
    device: str = "cpu"
    progress: Progress = no_progress
    in_memory: int | None = None

    def takes(self, count: int) -> bool:
        """Whether a collection of so many documents is written to files."""
        return count > (self.shard_size if self.in_memory is None else self.in_memory)

    def vectors(
        self, encode: EncodeTexts, texts: Sequence[str], *, wait: bool = True
    ) -> VectorShards | None:
        """Shards of a collection; see `encode_shards`."""
        key = self.model_key()
        size = self.shard_size
        folder = self.place(texts, key)
        return encode_shards(
            encode, texts, folder, key, shard_size=size, wait=wait, progress=self.progress
        )

    def search(
        self,
        query: Tensor,
        document_encoder: EncodeTexts,
        texts: Sequence[str],
        k: int,
        metric: Metric,
    ) -> SearchResult:
        """The nearest documents of a collection, which is encoded first."""
        shards = self.vectors(document_encoder, texts)
        assert shards is not None  # it waits
        if self.index != "flat":
            return ApproximateIndex(shards, self.index, metric).search(query, k)
        return search_shards(query, shards, k, metric=metric, device=self.device)

    def place(self, texts: Sequence[str], key: str) -> Path:
        """Folder of a collection and a model."""
        name = f"{texts_digest(texts)}\n{key}\n{self.shard_size}"
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:24]


def words_on_disk(runs_dir: str | Path) -> OnDisk:
    """Where BM25's index of a large collection is kept, for callers that encode nothing."""
    return OnDisk(Path(runs_dir) / "embeddings", lambda: "bm25", LARGE)


def bm25_index(texts: Sequence[str], on_disk: OnDisk | None = None, **options: Any) -> BM25:
    """BM25 of a collection, in files where it is a large one.

    Args:
        texts: N documents.
        on_disk: where files go, and from how many documents on; None: everything in memory.
        options: of `BM25`.
    """
    if on_disk is None or not on_disk.takes(len(texts)):
        return BM25(list(texts), **options)
    return bm25_on_disk(texts, on_disk.place(texts, f"bm25 {sorted(options.items())}"), **options)


def dense_run(
    data: RetrievalSet,
    query_encoder: EncodeTexts,
    document_encoder: EncodeTexts,
    *,
    metric: Metric = "cosine",
    depth: int = DEPTH,
    drop_identical: bool = True,
    on_disk: OnDisk | None = None,
) -> Run:
    """The nearest documents of every query by exact search.

    Args:
        data: collection, queries, judgements.
        query_encoder: texts -> (N, D), in evaluation mode.
        document_encoder: the same for documents.
        metric: "cosine" or "dot".
        depth: documents per query.
        drop_identical: leave out the document with the id of the query, as BEIR does.
        on_disk: for a collection larger than its shards; None: everything in memory.
    """
    texts, k = texts_of(data.corpus), min(depth + 1, len(data.corpus))  # the query may be in it
    queries = query_encoder(list(data.queries.values()))
    if on_disk is not None and on_disk.takes(len(texts)):
        result = on_disk.search(queries, document_encoder, texts, k, metric)
    else:
        result = search(queries, document_encoder(list(texts)), k, metric=metric)
    return _named(data, result, depth, drop_identical)


def lexical_run(
    data: RetrievalSet,
    method: Lexical,
    *,
    depth: int = DEPTH,
    drop_identical: bool = True,
    on_disk: OnDisk | None = None,
    **options: Any,
) -> Run:
    """The trivial baseline: documents that share words with the query.

    Args:
        data: collection, queries, judgements.
        method: "bm25" (see `BM25`), or "tfidf": cosine of tf-idf vectors (see `tfidf_vectors`).
        depth: documents per query; those without a common word are left out.
        drop_identical: leave out the document with the id of the query, as BEIR does.
        on_disk: for BM25 of a collection larger than its shards.
        options: of `BM25`, or of scikit-learn's vectoriser (``analyzer="char_wb"``).
    """
    documents, queries = texts_of(data.corpus), list(data.queries.values())
    k = min(depth + 1, len(documents))
    if method == "bm25":
        result = bm25_index(documents, on_disk, **options).search(queries, k)
    else:
        table, vectors = tfidf_vectors(documents, **options)
        asked = vectors(queries)
        parts = [
            stable_topk(torch.from_numpy((asked[rows] @ table.T).toarray()), k)
            for rows in blocks(len(queries), 256)
        ]
        result = SearchResult(*(torch.cat(list(side)) for side in zip(*parts, strict=True)))
    shared = result.indices.masked_fill(result.scores <= 0, -1)
    return _named(data, SearchResult(result.scores, shared), depth, drop_identical)


def read_run(path: Path, depth: int | None = None) -> Run:
    """A ranking in TREC's layout: ``query Q0 document rank score tag``, white space between.

    Args:
        path: the file.
        depth: best documents of a query that are kept; None: all.

    Raises:
        UserError: no such file, or a line of another layout.
    """
    if not path.is_file():
        raise UserError(f"there is no run file {path}: lines of 'query Q0 document rank score tag'")
    run: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            try:
                query, _, document, _, score, _ = fields
                run.setdefault(query, {})[document] = float(score)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: expected 'query Q0 document rank score tag'"
                ) from None
    if depth is None:
        return run
    return {q: dict(sorted(hits.items(), key=lambda x: -x[1])[:depth]) for q, hits in run.items()}


def tfidf_vectors(texts: Sequence[str], **options: Any) -> tuple[Any, Callable[[list[str]], Any]]:
    """Unit tf-idf rows of texts as a sparse matrix, and the same for further texts.

    Args:
        texts: N texts, whose document frequencies count.
        options: of scikit-learn's ``TfidfVectorizer``; its words by default.

    Raises:
        ValueError: no word in any text.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**options)
    return vectorizer.fit_transform(texts), vectorizer.transform


def tfidf_encoder(texts: Sequence[str], **options: Any) -> EncodeTexts:
    """TF-IDF in the place of an encoder, so that any measure of embeddings has it as a baseline.

    Args:
        texts: those whose document frequencies count; the width is the number of their words.
        options: see `tfidf_vectors`.

    >>> encode = tfidf_encoder(["red fox", "red car"])
    >>> (encode(["fox"]) @ encode(["red fox", "red car"]).T).gt(0).tolist()
    [[True, False]]
    """
    _, vectors = tfidf_vectors(texts, **options)
    return lambda rows: torch.from_numpy(vectors(list(rows)).toarray()).float()


def _named(
    data: RetrievalSet, result: SearchResult, depth: int, drop_identical: bool
) -> dict[str, dict[str, float]]:
    """At most `depth` hits by id."""
    names, run = names_of(data.corpus), {}
    rows = zip(data.queries, result.indices.tolist(), result.scores.tolist(), strict=True)
    for query, places, scores in rows:
        hits = [(names[i], score) for i, score in zip(places, scores, strict=True) if i >= 0]
        kept = [hit for hit in hits if not (drop_identical and hit[0] == query)]
        run[query] = dict(kept[:depth])
    return run
