"""BM25, the BEIR reader, cached encoding and hard-negative mining."""

import gzip
import json
import math
import re

import numpy as np
import pytest
import torch

from common.config import UserError
from common.evaluation.encoding import encode, encode_texts, evaluation_mode
from common.evaluation.retrieval.beir import load_beir
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.ranking import per_query_metrics
from common.evaluation.retrieval.runs import read_run
from common.evaluation.retrieval.subsets import reduced

DOCUMENTS = [
    "the quick brown fox jumps over the lazy dog",
    "a fox is a fox",
    "dogs and cats live together in the house",
    "nothing in common here",
]


def test_bm25_by_hand():
    index = BM25(["fox fox dog", "dog"], k1=1.2, b=0.75)
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 1.2 * (1 - 0.75 + 0.75 * 3 / 2))
    result = index.search(["fox"], 2)
    assert result.scores[0].tolist() == pytest.approx([expected, 0.0])
    twice = index.search(["fox fox unknown"], 1).scores.item()
    assert twice == pytest.approx(2 * expected)


def test_bm25_of_a_large_collection_takes_small_blocks(monkeypatch):
    """As many scores at a time as fit, equal to those of one block."""
    index, queries = BM25(DOCUMENTS), ["fox", "dog", "house", "common fox", "cats"]
    expected, blocks, plain = index.search(queries, 3), [], BM25.scores
    monkeypatch.setattr(
        BM25, "scores", lambda self, part: blocks.append(len(part)) or plain(self, part)
    )
    monkeypatch.setattr("common.evaluation.retrieval.bm25.CELLS", 2 * len(DOCUMENTS))
    actual = index.search(queries, 3)
    assert blocks == [2, 2, 1]
    assert torch.equal(actual.scores, expected.scores)
    assert torch.equal(actual.indices, expected.indices)


def lucene(documents, query, k1, b):
    """Lucene's variant as Kamphuis et al. 2020 print it, word by word."""
    words = [re.findall(r"\w\w+", text.lower()) for text in documents]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for own in words:
        score = 0.0
        for word in re.findall(r"\w\w+", query.lower()):
            df, tf = sum(word in other for other in words), own.count(word)
            idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + k1 * (1 - b + b * len(own) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (1.2, 0.0)])
def test_bm25_equals_the_formula(k1, b):
    index = BM25(DOCUMENTS, k1=k1, b=b)
    queries = ["a FOX in the house", "lazy dogs, lazy dogs", "fox", "unknown"]
    for query, row in zip(queries, index.scores(queries).tolist(), strict=True):
        assert row == pytest.approx(lucene(DOCUMENTS, query, k1, b), abs=1e-9)
    other = lucene(DOCUMENTS, queries[0], k1 + 0.3, b)
    assert index.scores(queries[:1])[0].tolist() != pytest.approx(other, abs=1e-3)


def test_scores_do_not_depend_on_the_order_of_the_words():
    """Sums of the same numbers in another order differ in their last bits, which would undo
    ties."""
    words = [f"word{i}" for i in range(7)]
    rng = np.random.default_rng(0)
    index = BM25([" ".join(rng.choice(words, 9)) for _ in range(40)])
    orders = [" ".join(rng.permutation(words)) for _ in range(20)]
    assert all(torch.equal(row, index.scores(orders[:1])[0]) for row in index.scores(orders))


def test_bm25_chunks_ties_and_exclusions():
    index = BM25(DOCUMENTS)
    queries = ["fox", "dog house", "absent"]
    whole, parts = index.search(queries, 4), index.search(queries, 4, chunk_size=1)
    assert torch.equal(whole.indices, parts.indices)
    assert whole.indices[2].tolist() == [0, 1, 2, 3]  # no common word: all tie at 0
    assert whole.indices[0, 0] == 1
    assert index.search(["fox"], 1, exclude=[1]).indices.tolist() == [[0]]


def test_tokenizer_drops_single_characters_and_stop_words():
    index = BM25(["A Fox, the fox's x1!", "the dog"])
    assert index.scores(["X1"])[0, 0] > 0
    assert index.scores(["a s"])[0].tolist() == [0.0, 0.0]
    assert index.scores(["the"])[0, 1] > 0
    stopped = BM25(["A Fox, the fox's x1!", "the dog"], stop_words={"the"})
    assert stopped.scores(["The"])[0].tolist() == [0.0, 0.0]
    assert stopped.scores(["dog"])[0, 1] > 0


def test_bm25_refusals():
    with pytest.raises(ValueError, match="at least one word"):
        BM25(["", "."])
    with pytest.raises(ValueError, match="k1 >= 0"):
        BM25(DOCUMENTS, b=2.0)
    with pytest.raises(ValueError, match=r"k in \[1, 4\]"):
        BM25(DOCUMENTS).search(["fox"], 5)


def write_beir(folder, packed=True, qrels="1\ta\t2\n1\tb\t0\n"):
    rows = [{"_id": "a", "title": "T", "text": "one"}, {"_id": "b", "text": "two"}]
    queries = [{"_id": "1", "text": "first"}, {"_id": "2", "text": "unjudged"}]
    opener, suffix = (gzip.open, ".gz") if packed else (open, "")
    for name, lines in (("corpus", rows), ("queries", queries)):
        with opener(folder / f"{name}.jsonl{suffix}", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)


@pytest.mark.parametrize("packed", [True, False])
def test_beir_layout(tmp_path, packed):
    write_beir(tmp_path, packed)
    data = load_beir(tmp_path)
    assert data.corpus == {"a": "T one", "b": "two"}
    assert data.queries == {"1": "first"}
    assert data.qrels == {"1": {"a": 2, "b": 0}}


def test_beir_split_lies_in_the_qrels_folder(tmp_path):
    write_beir(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n2\tb\t1\n")
    assert load_beir(tmp_path, "dev").queries == {"2": "unjudged"}
    with pytest.raises(UserError, match=r"test\.tsv is missing"):
        load_beir(tmp_path, "test")


def test_beir_files_may_begin_with_a_byte_order_mark(tmp_path):
    write_beir(tmp_path, packed=False)
    for path in tmp_path.iterdir():
        path.write_text("\ufeff" + path.read_text(), "utf-8")
    assert load_beir(tmp_path).qrels == {"1": {"a": 2, "b": 0}}
    run = tmp_path / "run.trec"
    run.write_text("\ufeff1 Q0 a 1 9.0 x\n1 Q0 b 2 8.0 x\n", "utf-8")
    assert read_run(run) == {"1": {"a": 9.0, "b": 8.0}}


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_two_texts_of_one_id_are_refused(tmp_path, name):
    """The later one took the place of the first; the same line twice is not a harm."""
    write_beir(tmp_path, packed=False)
    path = tmp_path / f"{name}.jsonl"
    path.write_text(path.read_text() * 2)
    assert len(load_beir(tmp_path).corpus) == 2
    path.write_text(path.read_text() + '{"_id": 1, "text": "x"}\n{"_id": "1", "text": "y"}\n')
    with pytest.raises(UserError, match=rf"{name}\.jsonl has two texts of the id '1'"):
        load_beir(tmp_path)


def test_beir_judges_a_few_documents_that_it_does_not_hold(tmp_path, caplog):
    """ArguAna does; the evaluation stopped there.

    They count as relevant and are retrieved by nobody.
    """
    write_beir(tmp_path, qrels="1\ta\t1\n1\tgone\t1\n" + "2\tb\t1\n" * 20)
    with pytest.raises(UserError, match="judges document 'gone' and 0 others"):
        load_beir(tmp_path)  # a judgement repeated is one: one of three
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "text": f"text {i}"}) + "\n" for i in range(30))
    )
    judged = "".join(f"2\td{i}\t1\n" for i in range(29))
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\td29\t1\n1\tgone\t1\n" + judged
    )
    data = load_beir(tmp_path)
    assert "judges 1 documents that the collection does not hold, such as gone" in caplog.text
    assert data.relevant("1") == ["d29"]
    actual = per_query_metrics(data.qrels, {"1": {"d29": 1.0}}, ks=(10,))
    assert actual["1"]["recall_at_10"] == 0.5
    assert reduced(data, 5).qrels["1"] == {"d29": 1, "gone": 1}
    assert reduced(data, 5).qrels["2"].keys() <= reduced(data, 5).corpus.keys()


def test_beir_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"corpus\.jsonl .* is missing"):
        load_beir(tmp_path)
    write_beir(tmp_path, qrels="1\tz\t1\n")
    with pytest.raises(UserError, match="judges document 'z'"):
        load_beir(tmp_path)
    write_beir(tmp_path, qrels="1\ta\tx\n")
    with pytest.raises(UserError, match="line 2: expected three fields"):
        load_beir(tmp_path)
    write_beir(tmp_path, qrels="")
    with pytest.raises(UserError, match="no judgement"):
        load_beir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a"}\n')
    with pytest.raises(UserError, match="line 1 lacks text"):
        load_beir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match="not a JSON object"):
        load_beir(tmp_path)


class Recorder:
    """Encoder that remembers its batches; the embedding tells which text it was."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.batches: list[list[str]] = []
        self.fail_after = fail_after

    def __call__(self, texts: list[str]) -> torch.Tensor:
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise RuntimeError("power cut")
        self.batches.append(texts)
        return torch.tensor([[float(len(t)), float(ord(t[0]))] for t in texts])


TEXTS = ["bb", "a", "eeeee", "ccc", "dddd", "f"]


def test_encoding_sorts_by_length_and_restores_the_order():
    encoder = Recorder()
    embeddings = encode_texts(encoder, TEXTS, batch_size=2)
    assert encoder.batches == [["eeeee", "dddd"], ["ccc", "bb"], ["a", "f"]]
    assert embeddings.tolist() == [[float(len(t)), float(ord(t[0]))] for t in TEXTS]


def test_encoding_shows_progress_per_batch():
    seen = []

    def progress(iterable, description, total):
        seen.append((description, total))
        return iterable

    encode(Recorder(), TEXTS, batch_size=4, progress=progress, description="titles")
    assert seen == [("titles", 2)]


def test_encoding_refusals():
    with pytest.raises(ValueError, match="nothing to encode"):
        encode(Recorder(), [])
    with pytest.raises(ValueError, match="for 2 items"):
        encode(lambda batch: torch.ones(1, 3), [1, 2])


def test_evaluation_mode_restores_mixed_modes_and_gradients():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    model[0].eval()  # a frozen part
    with evaluation_mode(model):
        assert not any(part.training for part in model.modules())
        assert not model(torch.ones(1, 2)).requires_grad
    assert [part.training for part in model.modules()] == [True, False, True]
    with pytest.raises(RuntimeError, match="inside"), evaluation_mode(model):
        raise RuntimeError("inside")
    assert model.training
