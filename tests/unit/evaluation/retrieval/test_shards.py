"""Corpora on disk: equal to search in memory, resumable, shared by processes."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.retrieval.corpus_file import CorpusFile, DistinctTexts, names_of, texts_of
from common.evaluation.retrieval import bm25_files, runs
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.bm25_files import bm25_on_disk
from common.evaluation.retrieval.runs import (
    OnDisk,
    bm25_index,
    dense_run,
    lexical_run,
    words_on_disk,
)
from common.evaluation.retrieval.shard_search import (
    ApproximateIndex,
    merge_results,
    search_shards,
)
from common.evaluation.retrieval.vector_shards import encode_shards, shard_path
from common.evaluation.search import search

TEXTS = [f"text {i % 17} of {i}" for i in range(50)]


def embed(texts: list[str]) -> torch.Tensor:
    """Vectors that depend on the text's first number only, so that many are tied."""
    rows = [np.random.default_rng(int(t.split()[1])).normal(size=8) for t in texts]
    return torch.tensor(np.array(rows), dtype=torch.float32)


def never(texts: list[str]) -> torch.Tensor:
    raise AssertionError("encoded again")


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("exclude", [None, [[i, i + 17, 3] for i in range(5)]])
def test_search_of_shards_is_exact(tmp_path, metric, exclude):
    shards = encode_shards(embed, TEXTS, tmp_path, "m", shard_size=7)
    query, whole = embed(TEXTS[:5]), embed(TEXTS)
    expected = search(query, whole, 20, metric=metric, exclude=exclude)
    result = search_shards(query, shards, 20, metric=metric, exclude=exclude)
    assert torch.equal(result.indices, expected.indices)
    torch.testing.assert_close(result.scores, expected.scores)
    parts = [
        search_shards(query, shards, 20, metric=metric, exclude=exclude, part=(i, 3))
        for i in range(3)
    ]
    assert torch.equal(merge_results(parts, 20).indices, expected.indices)


def test_memory_holds_a_part_of_a_shard(tmp_path):
    sizes = []

    def counted(texts):
        sizes.append(len(texts))
        return embed(texts)

    encode_shards(counted, TEXTS, tmp_path, "m", shard_size=32)
    assert (max(sizes), sum(sizes)) == (2, len(TEXTS))


def test_a_killed_process_continues_at_a_shards_border(tmp_path):
    def killed(texts):
        if texts[0] == TEXTS[21]:
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(texts)

    if (child := os.fork()) == 0:
        encode_shards(killed, TEXTS, tmp_path, "m", shard_size=10)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert len(list(tmp_path.glob("shard-*.npy"))) == 2
    again = []

    def counted(texts):
        again.extend(texts)
        return embed(texts)

    shards = encode_shards(counted, TEXTS, tmp_path, "m", shard_size=10)
    assert again == TEXTS[20:]
    np.testing.assert_array_equal(np.concatenate([r for _, r in shards.blocks(4)]), embed(TEXTS))
    assert encode_shards(never, TEXTS, tmp_path, "m", shard_size=10) == shards
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_processes_share_out_the_shards(tmp_path):
    log = tmp_path / "log"

    def logged(texts):
        with log.open("a") as file:
            file.write(f"{os.getpid()} {texts[0]}\n")
        time.sleep(0.002)
        return embed(texts)

    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            encode_shards(logged, TEXTS, tmp_path / "v", "m", shard_size=5)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    lines = log.read_text().splitlines()
    assert len({line.split()[0] for line in lines}) == 2
    assert len(lines) == len(TEXTS) == len({line.partition(" ")[2] for line in lines})


def test_who_does_not_wait_leaves_the_shards_of_others(tmp_path):
    if (child := os.fork()) == 0:

        def held(texts):
            (tmp_path / "held").touch()
            time.sleep(0.3)
            return embed(texts)

        encode_shards(held, TEXTS[:1], tmp_path / "one", "m", shard_size=1)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    assert encode_shards(never, TEXTS[:1], tmp_path / "one", "m", shard_size=1, wait=False) is None
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "change", [{"model_key": "other"}, {"shard_size": 9}, {"texts": TEXTS[1:]}]
)
def test_another_owner_is_refused(tmp_path, change):
    same = {"texts": TEXTS, "folder": tmp_path, "model_key": "m", "shard_size": 10}
    encode_shards(embed, **same)
    with pytest.raises(UserError, match="made for another"):
        encode_shards(embed, **{**same, **change})


def test_a_cut_shard_is_refused(tmp_path):
    shards = encode_shards(embed, TEXTS, tmp_path, "m", shard_size=10)
    np.save(shard_path(tmp_path, 1), np.zeros((3, 8), np.float32))
    with pytest.raises(UserError, match=r"not \(10, dimension\)"):
        search_shards(embed(TEXTS[:1]), shards, 1)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        pytest.param("ivfpq", "cosine", marks=pytest.mark.slow),
        ("hnsw", "cosine"),
        ("hnsw", "dot"),
    ],
)
def test_approximate_indexes_find_most(tmp_path, kind, metric):
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32))
    texts = [str(i) for i in range(len(rows))]
    pick = lambda part: rows[[int(t) for t in part]]  # noqa: E731
    shards = encode_shards(pick, texts, tmp_path, "m", shard_size=600)
    exact = search(rows[:20], rows, 10, metric=metric)
    for _ in range(2):  # built, then read
        result = ApproximateIndex(shards, kind, metric).search(rows[:20], 10)
        shared = [
            len({*a} & {*b})
            for a, b in zip(result.indices.tolist(), exact.indices.tolist(), strict=True)
        ]
        assert np.mean(shared) > 8
        top = result.indices[:, 0] == exact.indices[:, 0]
        torch.testing.assert_close(result.scores[top, 0], exact.scores[top, 0])


DOCUMENTS = ["the red fox", "a blue whale and a blue sea", "", "red red sea", "fox whale"] * 9
QUESTIONS = ["red sea", "whale whale", "unknown", "fox"]


@pytest.mark.parametrize("stop_words", [(), ("red",)])
def test_bm25_on_disk_has_the_same_scores(tmp_path, monkeypatch, stop_words):
    monkeypatch.setattr(bm25_files, "CHUNK", 7)
    monkeypatch.setattr(bm25_files, "PIECE", 2)
    expected = BM25(DOCUMENTS, stop_words=stop_words).search(QUESTIONS, 9)
    for _ in range(2):
        result = bm25_on_disk(DOCUMENTS, tmp_path, stop_words=stop_words).search(QUESTIONS, 9)
        assert torch.equal(result.indices, expected.indices)
        torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-9)


def test_bm25_on_disk_continues_after_its_last_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25_files, "CHUNK", 7)
    split, calls = bm25_files.split_words, []

    def breaks(texts, stop_words):
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return split(texts, stop_words)

    monkeypatch.setattr(bm25_files, "split_words", breaks)
    with pytest.raises(KeyboardInterrupt):
        bm25_on_disk(DOCUMENTS, tmp_path)
    result = bm25_on_disk(DOCUMENTS, tmp_path).search(QUESTIONS, 9)
    assert sum(calls) == len(DOCUMENTS) + 7  # the chunk that was broken off comes twice
    assert torch.equal(result.indices, BM25(DOCUMENTS).search(QUESTIONS, 9).indices)


def corpus_file(folder: Path, rows: list[dict[str, str]]) -> CorpusFile:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return CorpusFile(path)


def test_a_corpus_on_disk_reads_as_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.retrieval.corpus_file.BLOCK", 7)
    rows = [{"_id": f"d{i}", "title": f"T{i}", "text": f"é {i}"} for i in range(40)]
    corpus = corpus_file(tmp_path, rows)
    whole = {f"d{i}": f"T{i} é {i}" for i in range(40)}
    assert dict(corpus.items()) == whole
    assert list(corpus.values()) == list(whole.values())
    assert list(names_of(corpus)) == list(whole)
    for part in (slice(3, 5), slice(5, 30), slice(30, 50), slice(4, 4), slice(30, 3, -9)):
        assert texts_of(corpus)[part] == list(whole.values())[part]
    assert "d39" in corpus
    assert "d40" not in corpus
    assert corpus.with_field(lambda row: row["title"])["d7"] == "T7"


def test_a_corpus_on_disk_that_was_changed_is_refused(tmp_path):
    corpus = corpus_file(tmp_path, [{"_id": "a", "text": "x"}, {"_id": "b", "text": "y"}])
    with corpus.path.open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="was changed while it was read"):
        list(corpus)


def test_distinct_texts_are_in_the_order_of_their_first_places(tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.retrieval.corpus_file.BLOCK", 4)
    listed = ["z", "a", "z"]
    corpus = [f"text {i % 9}" for i in range(20)] + ["a", "last"]
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(corpus)]
    expected = list(dict.fromkeys(listed + corpus))
    for parts in (
        [listed, corpus],
        [listed, texts_of(corpus_file(tmp_path, rows))],
        [[], expected],
    ):
        texts = DistinctTexts(*parts)
        assert list(texts) == expected
        assert [texts[i] for i in range(len(texts))] == expected
        assert texts[1:5] == expected[1:5]
        assert [texts.place(text) for text in expected] == list(range(len(expected)))
        assert "a" in texts
        assert "absent" not in texts
    with pytest.raises(KeyError):
        texts.place("absent")
    assert DistinctTexts(["a", "b"]).digest != DistinctTexts(["b", "a"]).digest


def test_bm25_of_a_large_collection_is_in_files(tmp_path, monkeypatch):
    expected = bm25_index(DOCUMENTS).search(QUESTIONS, 9)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(runs, "LARGE", len(DOCUMENTS) - 1)
    result = bm25_index(DOCUMENTS, words_on_disk(tmp_path)).search(QUESTIONS, 9)
    assert torch.equal(result.indices, expected.indices)
    assert len(list((tmp_path / "embeddings").glob("*/params.index.json"))) == 1


def test_a_corpus_on_disk_refuses_two_documents_of_one_id(tmp_path):
    rows = [{"_id": "a", "text": "x"}, {"_id": "b", "text": "y"}, {"_id": "a", "text": "z"}]
    with pytest.raises(UserError, match="two documents of the id 'a'"):
        corpus_file(tmp_path, rows)


def test_runs_from_disk_equal_those_in_memory(tmp_path):
    corpus = {f"d{i}": text for i, text in enumerate(TEXTS)}
    data = RetrievalSet(corpus, {"q": TEXTS[3], "d4": TEXTS[4]}, {"q": {"d3": 1}, "d4": {"d4": 1}})
    disk = OnDisk(tmp_path / "kept", lambda: "m", shard_size=9)
    assert dense_run(data, embed, embed, on_disk=disk) == dense_run(data, embed, embed)
    assert dense_run(data, embed, never, on_disk=disk, depth=3) == dense_run(
        data, embed, embed, depth=3
    )
    assert lexical_run(data, "bm25", on_disk=disk) == lexical_run(data, "bm25")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    in_memory = OnDisk(tmp_path / "none", lambda: "m", shard_size=50)
    dense_run(data, embed, embed, on_disk=in_memory)
    assert not (tmp_path / "none").exists()
