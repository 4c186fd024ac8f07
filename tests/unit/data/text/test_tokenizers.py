import json
import pickle
from pathlib import Path

import pytest
import torch

from common.config import UserError
from common.data.text.tokenizers import BpeTokenizer, ClipTokenizer, clean_caption

# Token ids recorded from the official tokenizer of the LaCLIP release.
GOLDEN = {
    "a photo of a cat.": [49406, 320, 1125, 539, 320, 2368, 269, 49407],
    "Red   BUS &amp; car": [49406, 736, 2840, 261, 1615, 49407],
    "don't stop": [49406, 847, 713, 1691, 49407],
}
CORPUS = ["a photo of a red bus", "the dog runs", "two cats and a dog", "a red car"] * 5


@pytest.fixture(scope="module")
def small():
    return BpeTokenizer.train(CORPUS, vocab_size=300, context_length=8)


def test_cleaning_repairs_unescapes_and_lowers():
    assert clean_caption("  Caf\u00c3\u00a9 &amp;amp;\n\tBAR ") == "caf\u00e9 & bar"


@pytest.mark.parametrize("text", GOLDEN)
def test_clip_ids_equal_the_recorded_ones(text):
    row = ClipTokenizer()(text)[0]
    assert row.shape == (77,)
    assert row[: len(GOLDEN[text])].tolist() == GOLDEN[text]
    assert row[len(GOLDEN[text]) :].sum() == 0


def test_truncation_keeps_end_of_text():
    row = ClipTokenizer()("word " * 100)[0]
    assert int((row != 0).sum()) == 77
    assert row[-1] == 49407
    short = ClipTokenizer(context_length=4)(["a photo of a cat", "cat"])
    assert short[0].tolist() == [49406, 320, 1125, 49407]
    assert short[1].tolist() == [49406, 2368, 49407, 0]


def test_small_tokenizer_ends_with_the_highest_id_and_pads_with_zero(small):
    ids = small(["red bus", "a photo of a red car and two dogs that run and run"])
    assert ids.shape == (2, 8)
    assert ids.dtype == torch.long
    assert ids.max(dim=1).values.tolist() == [small.vocab_size - 1] * 2
    assert ids[1, -1] == small.vocab_size - 1  # truncated
    assert ids[0, ids[0].argmax() + 1 :].sum() == 0
    assert small.decode(ids[0]) == "red bus"


def test_small_tokenizer_cleans_and_knows_every_byte(small):
    assert torch.equal(small("RED &amp; bus"), small("red & bus"))
    assert small.decode(small("z\u00fc")[0]) == "z\u00fc"


def test_small_tokenizer_is_deterministic_and_survives_files(small, tmp_path):
    again = BpeTokenizer.train(CORPUS, vocab_size=300, context_length=8)
    loaded = BpeTokenizer.load(small.save(tmp_path))
    for other in (again, loaded, pickle.loads(pickle.dumps(small))):
        assert other.context_length == 8
        assert torch.equal(other(CORPUS[:4]), small(CORPUS[:4]))
    assert BpeTokenizer.load(tmp_path, context_length=5)("red").shape == (1, 5)


def test_saved_tokenizer_loads_in_transformers(small, tmp_path):
    from transformers import PreTrainedTokenizerFast

    path = small.save(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(path))
    ids = fast("red bus")["input_ids"]
    assert ids == small("red bus")[0][: len(ids)].tolist()


def test_foreign_tokenizer_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        BpeTokenizer.load(tmp_path)
    path = Path(tmp_path / "tokenizer.json")
    path.write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        BpeTokenizer.load(path)
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(path))
    assert json.loads(path.read_text())["model"]["type"] == "WordLevel"
    with pytest.raises(UserError, match="cannot serve a text tower"):
        BpeTokenizer.load(path)
