"""Search in the inverted index against bm25s: `python -m projects.promptreps.benchmark`.

Both search the weights that bm25s computed for made-up documents whose words follow Zipf's law, one
thread each, and must give every rank the same score. Times are CPU seconds of the fastest of
several rounds, alternating; search includes the selection of the best.
"""

import argparse
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import time
from importlib.metadata import version

import bm25s
import numpy as np

from common.engine.workspace import cpu_name
from projects.promptreps.lexical.impact_index import ImpactIndex

SIZES = ((5_000, 8), (50_000, 8), (50_000, 60), (200_000, 8))  # documents, words of a query
QUICK = ((2_000, 8),)
VOCABULARY, WORDS = 30_000, 60
K = 100


def collection(rows: int, words: int, seed: int) -> list[list[int]]:
    """Word ids of made-up texts."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, VOCABULARY + 1)
    return rng.choice(VOCABULARY, (rows, words), p=share / share.sum()).tolist()


def fastest(runs: dict[str, object], rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest round of each, alternating."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()  # type: ignore[operator]
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    """One row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    print(f"{cpu_name()}, bm25s {version('bm25s')}, numpy {version('numpy')}, k={K}")
    print("| documents | words of a query | bm25s ms/query | ours ms/query | bm25s / ours |")
    print("|--:|--:|--:|--:|--:|")
    for rows, length in QUICK if options.quick else SIZES:
        documents = collection(rows, WORDS, 0)
        queries = collection(options.queries, length, 1)
        vocabulary = {i: i for i in range(VOCABULARY)}
        theirs = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        theirs.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        held = theirs.scores
        held["data"] = np.rint(100 * held["data"])  # whole numbers, as impacts are
        tokens = np.repeat(np.arange(len(held["indptr"]) - 1), np.diff(held["indptr"]))
        ours = ImpactIndex.from_postings(held["indices"], tokens, held["data"], rows)
        weighted = [dict(zip(*np.unique(q, return_counts=True), strict=True)) for q in queries]
        weighted = [{int(t): int(n) for t, n in q.items()} for q in weighted]
        plain = [[int(t) for t in q] for q in queries]

        def search_theirs(index=theirs, asked=plain):
            return index.retrieve(asked, k=K, show_progress=False, n_threads=0)

        def search_ours(index=ours, asked=weighted):
            return index.search(asked, K)

        same(search_theirs(), search_ours())
        took = fastest({"bm25s": search_theirs, "ours": search_ours}, options.rounds)
        per = {name: 1000 * seconds / len(queries) for name, seconds in took.items()}
        print(
            f"| {rows:,} | {length} | {per['bm25s']:.3f} | {per['ours']:.3f} |"
            f" {per['bm25s'] / per['ours']:.2f} |"
        )


def same(theirs: object, ours: object) -> None:
    """Refuse results whose scores differ by more than rounding in float32."""
    a, b = theirs.scores, ours.scores.numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(a, b, rtol=1e-4)


if __name__ == "__main__":
    main()
