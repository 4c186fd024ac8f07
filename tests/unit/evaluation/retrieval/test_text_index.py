"""Search over texts: order, threshold, limits."""

import pytest
import torch

from common.config import UserError
from common.encoders.text.sentence import sentence_encoder
from common.evaluation.retrieval import text_index
from common.evaluation.retrieval.text_index import TextIndex

CONFIG = {
    "model_type": "bert",
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TEXTS = ["a dog runs", "two cats sleep", "the sun is far away", "a dog ran", "no"]


@pytest.mark.parametrize("backend", ["torch", "faiss", "auto"])
def test_hits_are_the_sorted_cosines(backend):
    torch.manual_seed(0)
    encoder = sentence_encoder("random", "avg", config=CONFIG)
    index = TextIndex(encoder, TEXTS, batch_size=2, backend=backend)
    queries = ["a dog runs", "the sun"]
    cosine = encoder.similarity(queries, TEXTS)
    actual = index.search(queries, k=3)
    for row, hits in zip(cosine, actual, strict=True):
        best = row.argsort(descending=True)[:3].tolist()
        assert [hit.position for hit in hits] == best
        assert [hit.text for hit in hits] == [TEXTS[i] for i in best]
        assert [hit.score for hit in hits] == pytest.approx(row[best].tolist(), abs=1e-5)
    assert actual[0][0].text == "a dog runs"
    assert actual[0][0].score == pytest.approx(1.0, abs=1e-5)


def test_threshold_and_limits():
    def encode(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1.0, float(len(text))] for text in texts])

    index = TextIndex(encode, ["a", "bb", "cccc"])
    assert len(index) == 3
    everything = index.search("bb", k=10)[0]
    assert everything[0].text == "bb"
    assert len(everything) == 3
    cut = everything[1].score
    assert index.search("bb", k=10, threshold=cut)[0] == everything[:2]
    assert index.search("bb", threshold=1.1) == [[]]
    with pytest.raises(ValueError, match="k must lie"):
        index.search("bb", k=0)
    with pytest.raises(ValueError, match="nothing to encode"):
        TextIndex(encode, [])


def test_queries_in_blocks_give_what_all_at_once_give(monkeypatch):
    """Equal scores by ascending position, whatever the blocks."""
    torch.manual_seed(0)
    table = torch.randint(-2, 3, (60, 3)).float()  # many ties
    texts = [f"{i}" for i in range(50)]

    def encode(rows: list[str]) -> torch.Tensor:
        return table[[int(row) for row in rows]]

    index = TextIndex(encode, texts, metric="dot")
    queries = [f"{i}" for i in range(40, 60)]
    whole = index.search(queries, k=7)
    monkeypatch.setattr(text_index, "SCORES", 150)  # three queries at a time
    assert index.search(queries, k=7) == whole
    assert [index.search(query, k=7)[0] for query in queries] == whole
    other = TextIndex(encode, texts, metric="dot", backend="torch")
    assert other.search(queries, k=7) == whole


def test_embeddings_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 of 2 rows hold NaN"):
        TextIndex(lambda rows: torch.tensor([[1.0, 0.0], [float("nan"), 1.0]]), ["a", "b"])


def test_a_stored_index_is_opened_without_encoding_and_extended(tmp_path):
    """Texts, vectors and metric come back; new texts are encoded once; another encoder is
    refused."""
    seen = []

    def rows(texts):
        seen.extend(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    TextIndex(rows, ["a", "bbb"], metric="dot").save(tmp_path / "index", "key")
    seen.clear()
    again = TextIndex.open(tmp_path / "index", rows, "key", batch_size=2)
    assert (seen, again.texts, again.metric) == ([], ["a", "bbb"], "dot")
    assert again.extend(["bbb", "cc\u00e9", "cc\u00e9"]) == 1
    assert seen == ["cc\u00e9"]
    assert [hit.position for hit in again.search("x", k=3)[0]] == [1, 2, 0]
    again.save(tmp_path / "index", "key")
    assert TextIndex.open(tmp_path / "index", rows, "key").texts == ["a", "bbb", "cc\u00e9"]
    with pytest.raises(UserError, match="made with another encoder"):
        TextIndex.open(tmp_path / "index", rows, "other")
    (tmp_path / "index/index.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="is not a text index"):
        TextIndex.open(tmp_path / "index", rows, "key")


def test_an_index_follows_its_collection_and_encodes_what_is_new_alone():
    """Texts that are gone leave it, vectors of those that stay are kept, in the new order."""
    seen = []

    def rows(texts):
        seen.extend(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    index = TextIndex(rows, ["a", "bbb", "cc"], metric="dot")
    kept = index.embeddings.clone()
    seen.clear()
    assert index.replace(["cc", "dddd", "a", "cc"]) == 1
    assert (seen, index.texts) == (["dddd"], ["cc", "dddd", "a"])
    assert torch.equal(index.embeddings[[0, 2]], kept[[2, 0]])
    assert index.embeddings[1, 0] == 4
    with pytest.raises(ValueError, match="needs texts"):
        index.replace([])
