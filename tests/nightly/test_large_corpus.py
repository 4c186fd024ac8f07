"""Two million passages of 64 dimensions in 2 GB of memory, by one process and by two."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.evaluation.retrieval.shard_search import merge_results, search_shards
from common.evaluation.retrieval.vector_shards import VectorShards
from common.evaluation.search import SearchResult, stable_topk
from tests.nightly.large_corpus import COUNT, SHARD, K, query_vectors, vectors

ROOT = Path(__file__).parents[2]


def worker(folder: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.nightly.large_corpus", str(folder), what]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def exact() -> SearchResult:
    """Cosines with all vectors, made again, in float64."""
    query = torch.nn.functional.normalize(query_vectors().double(), dim=1)
    parts = []
    for start in range(0, COUNT, SHARD):
        rows = torch.from_numpy(vectors(np.arange(start, start + SHARD, dtype=float))).double()
        best = stable_topk(query @ torch.nn.functional.normalize(rows, dim=1).T, K)
        parts.append(SearchResult(best.scores, best.indices + start))
    return merge_results(parts, K)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_million_passages(tmp_path):
    alone = worker(tmp_path, "measure")
    figures = json.loads(alone.communicate()[0])
    print(json.dumps(figures, indent=1))
    assert figures["search: peak MB"] <= 2000
    built = figures["BM25 search, 10 queries: peak MB"] - figures["imports: peak MB"]
    assert built * 1e6 / COUNT <= 1000  # bytes of a passage

    expected, result = exact(), np.load(tmp_path / "result.npz")
    np.testing.assert_allclose(result["scores"], expected.scores, atol=1e-6)
    same = (result["indices"] == expected.indices.numpy()).mean()
    assert same > 0.999  # neighbours whose scores differ in float64 alone may change places

    # two processes share out the shards; one is killed, another takes its place
    workers = [worker(tmp_path, "encode") for _ in range(2)]
    while len(list((tmp_path / "shared").glob("shard-*"))) < 4:
        time.sleep(0.1)
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    workers[0] = worker(tmp_path, "encode")
    assert [process.wait() for process in workers] == [0, 0]
    shards = VectorShards(tmp_path / "shared", COUNT, SHARD)
    parts = [search_shards(query_vectors(), shards, K, part=(i, 2)) for i in range(2)]
    merged = merge_results(parts, K)
    assert np.array_equal(merged.indices, result["indices"])
