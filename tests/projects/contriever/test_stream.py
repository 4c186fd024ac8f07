"""Token streams over shards, batches of chunk pairs, noise, normalisation."""

import numpy as np
import pytest

from common.config import UserError
from common.data.text.normalize import normalize_text, text_preparation
from common.data.text.options import TokenNoise
from common.data.text.token_files import write_token_files
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine.workspace import write_json
from projects.contriever.noise import (
    inverse_cloze,
    random_crop,
    replace_tokens,
    shuffle_tokens,
    token_noise,
)
from projects.contriever.stream import (
    SHARD_SETTINGS,
    ChunkPairs,
    TokenStream,
    flat_ids,
    open_shards,
)


def halves(chunk, rng):
    return chunk[:3], chunk[3:]


def test_chunks_stay_within_their_shard_at_every_offset():
    shards = [np.arange(100, 123), np.arange(4), np.arange(200, 233)]
    stream = TokenStream(shards, 5)
    assert len(stream) == 3 + 5  # the short shard is left out
    assert stream.num_tokens == 23 + 33
    for offset in range(5):
        for index in range(len(stream)):
            chunk = stream.chunk(index, offset)
            assert len(chunk) == 5
            assert (np.diff(chunk) == 1).all()
    assert stream.chunk(3, 4)[0] == 204
    with pytest.raises(UserError, match="two chunks"):
        TokenStream([np.arange(9)], 5)


def test_batches_hold_two_padded_views_and_do_not_depend_on_the_batch():
    tokenizer = tiny_tokenizer(400)
    stream = TokenStream([np.arange(50, 250)], 7)
    data = ChunkPairs({"a": stream}, tokenizer, halves, seed=3)
    batch = data[[(2, 0), (5, 1)]]
    assert batch["query"]["input_ids"].shape == (2, 5)
    assert batch["key"]["input_ids"].shape == (2, 6)
    assert batch["query"]["input_ids"][0, 0] == tokenizer.cls_token_id
    assert batch["key"]["input_ids"][1, -1] == tokenizer.sep_token_id
    first = 50 + data.offset(0, 0) + 14
    assert batch["query"]["input_ids"][0, 1:-1].tolist() == [first, first + 1, first + 2]
    alone = data[[(5, 1)]]
    assert alone["key"]["input_ids"][0].tolist() == batch["key"]["input_ids"][1].tolist()
    assert len({data.offset(0, epoch) for epoch in range(9)}) > 2
    assert batch["source"].tolist() == [0, 0]


def test_sources_of_unequal_chunks_are_refused():
    streams = {"a": TokenStream([np.arange(99)], 5), "b": TokenStream([np.arange(99)], 6)}
    for sources in (streams, {}):
        with pytest.raises(UserError, match="equal chunk length"):
            ChunkPairs(sources, tiny_tokenizer(400), halves)


def test_ids_are_flat_and_shards_are_memory_mapped(tmp_path):
    tokenizer = tiny_tokenizer(400)
    ids = flat_ids(tokenizer, ["the world", "of men"])
    rows = tokenizer(["the world", "of men"], add_special_tokens=False)["input_ids"]
    assert ids.tolist() == [*rows[0], *rows[1]]
    assert len(flat_ids(tokenizer, [])) == 0
    texts = [[ids.tolist()], [[0, 1], [], [2]]]
    for name, rows in zip("ba", texts, strict=True):
        write_token_files(tmp_path / name, name, len(rows), lambda _, rows=rows: rows)
        write_json(tmp_path / name / SHARD_SETTINGS, {"shards": 1})
    first, second = open_shards(tmp_path)
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == ids.tolist()
    assert isinstance(second, np.memmap)
    np.save(tmp_path / "b/ids-00000.npy", np.zeros((2, 2)))
    with pytest.raises(UserError, match="one row of integers"):
        open_shards(tmp_path)
    (tmp_path / "a/ids-00000.npy").write_bytes(b"")  # a disk that lost it
    with pytest.raises(UserError, match=r"ids-00000\.npy is not a NumPy array"):
        open_shards(tmp_path)


def test_crops_and_cloze_reach_both_ends():
    chunk = np.arange(10)
    crops = [random_crop(chunk, np.random.default_rng(i), 0.2, 0.4) for i in range(99)]
    assert {len(c) for c in crops} == {2, 3}
    assert {0, 9} <= {int(x) for c in crops for x in c}
    span, context = inverse_cloze(chunk, np.random.default_rng(0), 0.3, 0.3, keep=0.0)
    assert sorted([*span, *context]) == chunk.tolist()
    assert inverse_cloze(chunk, np.random.default_rng(0), 0.3, 0.3, keep=1.0)[1] is chunk


def test_shuffled_tokens_keep_their_multiset_and_replaced_ones_are_no_special_tokens():
    ids = np.arange(10, 40)
    moved = shuffle_tokens(ids, np.random.default_rng(0), 0.5)
    assert sorted(moved) == ids.tolist()
    assert 5 < (moved != ids).sum() < 25
    assert shuffle_tokens(ids, np.random.default_rng(0), 0.0).tolist() == ids.tolist()
    other = replace_tokens(np.zeros(500, dtype=np.int64), np.random.default_rng(0), 0.9, 9, 5)
    assert {0, 5, 6, 7, 8} == set(other.tolist())
    change = token_noise(TokenNoise("replace", 0.99), mask_id=None, vocab_size=7, special=[0, 1, 2])
    assert set(change(np.full(99, 50), np.random.default_rng(1))) <= {50, 3, 4, 5, 6}
    with pytest.raises(ValueError, match="mask token"):
        token_noise(TokenNoise("mask"), mask_id=None, vocab_size=7)


def test_texts_are_normalised_and_lower_cased_as_asked():
    text = "\u00ab\u0416\u00bb  e\u0301t\u00e9\u00ad\u2014A\u3002"
    assert normalize_text(text) == '"\u0416" \u00e9t\u00e9-A.'
    assert text_preparation(False, True)("AB\u2019") == "ab\u2019"
    assert text_preparation(True, True)("AB\u2019") == "ab'"
