"""Two million made-up passages: written, encoded, searched; time and memory of each step.

``python -m tests.nightly.large_corpus <folder> <encode|measure> [<number of passages>]``
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from common.data.retrieval.corpus_file import CorpusFile, CorpusTexts
from common.data.synthetic_words import SYLLABLES
from common.evaluation.retrieval.bm25_files import bm25_on_disk
from common.evaluation.retrieval.shard_search import search_shards
from common.evaluation.retrieval.vector_shards import VectorShards, encode_shards

COUNT, DIM, SHARD, WORDS = 2_000_000, 64, 100_000, 40
QUERIES, K = 200, 100
WORD_LIST = np.array([a + b for a in SYLLABLES for b in SYLLABLES])


def vectors(numbers: np.ndarray) -> np.ndarray:
    """A pseudo-random unit-free vector for every number, (N, 64) float32."""
    rng = np.random.default_rng(0)
    frequencies, phases = rng.uniform(1, 100, DIM), rng.uniform(0, 6.3, DIM)
    return np.cos(numbers[:, None] * frequencies + phases).astype(np.float32)


def embed(texts: list[str]) -> torch.Tensor:
    """The vector of the number that a text begins with."""
    return torch.from_numpy(vectors(np.array([int(t.split(" ", 1)[0]) for t in texts])))


def query_vectors() -> torch.Tensor:
    """Vectors close to those of some passages."""
    noise = np.random.default_rng(1).normal(size=(QUERIES, DIM)).astype(np.float32)
    return torch.from_numpy(vectors(np.arange(QUERIES) * 997.0) + 0.3 * noise)


def write_corpus(path: Path, count: int) -> None:
    """``corpus.jsonl`` of passages of 40 words, frequent and rare ones."""
    rng = np.random.default_rng(2)
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 10_000):
            size = min(10_000, count - start)
            drawn = (rng.random((size, WORDS)) ** 3 * len(WORD_LIST)).astype(int)
            for i, words in enumerate(WORD_LIST[drawn].tolist(), start):
                row = {"_id": f"p{i}", "title": str(i), "text": " ".join(words)}
                file.write(json.dumps(row) + "\n")


@contextmanager
def measured(figures: dict[str, float], name: str) -> Iterator[None]:
    """Process time, and the peak of resident memory so far, in MB."""
    begin = time.process_time()
    yield
    figures[f"{name}: CPU-seconds"] = round(time.process_time() - begin, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures[f"{name}: peak MB"] = round(peak)


def encoded(corpus: CorpusFile, folder: Path) -> VectorShards:
    """All shards, by as many processes as call this."""
    shards = encode_shards(embed, CorpusTexts(corpus), folder, "large", shard_size=SHARD)
    assert shards is not None
    return shards


def measure(folder: Path, count: int) -> dict[str, float]:
    """Every step once in this process; search results are written for comparison."""
    figures: dict[str, float] = {}
    with measured(figures, "imports"):
        pass
    path = folder / "corpus.jsonl"
    if not path.is_file():
        write_corpus(path, count)
    with measured(figures, "table of ids"):
        corpus = CorpusFile(path)
    with measured(figures, "encode"):
        shards = encoded(corpus, folder / "alone")
    with measured(figures, "search"):
        result = search_shards(query_vectors(), shards, K)
    np.savez(folder / "result.npz", scores=result.scores, indices=result.indices)
    with measured(figures, "BM25 index"):
        index = bm25_on_disk(CorpusTexts(corpus), folder / "bm25")
    with measured(figures, "BM25 search, 10 queries"):
        asked = [" ".join(corpus[f"p{i}"].split()[1:9]) for i in range(10)]
        index.search(asked, K)
    return figures


if __name__ == "__main__":
    where, what = Path(sys.argv[1]), sys.argv[2]
    if what == "encode":
        encoded(CorpusFile(where / "corpus.jsonl"), where / "shared")
    else:
        number = int(sys.argv[3]) if len(sys.argv) > 3 else COUNT
        print(json.dumps(measure(where, number)))
