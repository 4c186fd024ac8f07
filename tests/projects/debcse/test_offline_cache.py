"""Values on disk are joined by content, survive a kill and refuse other inputs."""

import json
import os
import resource

import pytest

from common.config import UserError
from common.data.offline import CLAIM
from projects.debcse.offline_cache import OfflineCache

TEXTS = ["red fox", "blue whale", "green frog", "red fox", "grey owl"]


class Lengths:
    """Counts what it is asked for; breaks off at a given call."""

    def __init__(self, texts, fail_at=None):
        self.texts, self.fail_at, self.calls = texts, fail_at, []

    def __call__(self, positions):
        if self.fail_at == len(self.calls):
            raise RuntimeError("power cut")
        self.calls.append(positions)
        return [{"length": len(self.texts[i])} for i in positions]


def test_rows_are_joined_by_content_and_equal_texts_are_computed_once(tmp_path):
    cache, compute = OfflineCache(tmp_path, {"model": "a"}), Lengths(TEXTS)
    assert cache.fill(TEXTS, compute, block_size=2) == 4
    assert compute.calls == [[0, 1], [2, 4]]
    assert [row["length"] for row in cache.rows(TEXTS)] == [7, 10, 10, 7, 8]
    assert [row["length"] for row in cache.rows(TEXTS[::-1])] == [8, 7, 10, 10, 7]
    assert "red fox" in cache
    assert "red" not in cache
    assert len(cache) == 4


def test_a_changed_corpus_costs_only_what_is_new(tmp_path):
    OfflineCache(tmp_path, {}).fill(TEXTS, Lengths(TEXTS))
    other = ["new one", *TEXTS[::-1]]
    compute = Lengths(other)
    cache = OfflineCache(tmp_path, {})
    assert cache.fill(other, compute) == 1
    assert compute.calls == [[0]]
    assert [row["length"] for row in cache.rows(other)] == [7, 8, 7, 10, 10, 7]


def test_a_stopped_stage_goes_on_with_the_missing_block(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        OfflineCache(tmp_path, {"k": 3}).fill(TEXTS, Lengths(TEXTS, fail_at=1), block_size=2)
    (tmp_path / "rows-half.jsonl.tmp").write_bytes(b'{"key": "')
    cache, compute = OfflineCache(tmp_path, {"k": 3}), Lengths(TEXTS)
    assert cache.missing(TEXTS) == [2, 4]
    assert cache.fill(TEXTS, compute, block_size=2) == 2
    assert compute.calls == [[2, 4]]
    whole = OfflineCache(tmp_path / "whole", {"k": 3})
    whole.fill(TEXTS, Lengths(TEXTS))
    assert list(cache.rows(TEXTS)) == list(whole.rows(TEXTS))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": "b", "k": 1}, "model"),
        ({"model": "a"}, "k"),
        ({"model": "a", "k": 1, "x": 0}, "x"),
    ],
)
def test_a_cache_of_other_inputs_is_refused(tmp_path, settings, named):
    OfflineCache(tmp_path, {"model": "a", "k": 1})
    OfflineCache(tmp_path, {"k": 1, "model": "a"})  # the twin: equal settings are accepted
    with pytest.raises(UserError, match=f"made for another {named};"):
        OfflineCache(tmp_path, settings)


def test_settings_that_json_changes_still_match(tmp_path):
    OfflineCache(tmp_path, {"sizes": (1, 2), "theta": 0.1})
    OfflineCache(tmp_path, {"sizes": [1, 2], "theta": 0.1})


def test_opening_without_settings_needs_a_cache(tmp_path):
    with pytest.raises(UserError, match=f"not an offline cache: it has no {CLAIM}"):
        OfflineCache(tmp_path / "nothing", None)
    OfflineCache(tmp_path, {"model": "a"}).add(["x"], [{"text": "y"}])
    assert next(OfflineCache(tmp_path, None).rows(["x"])) == {"text": "y"}


def test_pairs_and_line_breaks_and_surrogates(tmp_path):
    items = [("a\nb", "c"), ("\ud83d", ""), ("a", "\nbc")]
    cache = OfflineCache(tmp_path, {})
    cache.fill(items, lambda positions: [{"n": i, "text": "x\ny"} for i in positions])
    again = OfflineCache(tmp_path, {})
    assert [row["n"] for row in again.rows(items)] == [0, 1, 2]
    assert next(again.rows(items))["text"] == "x\ny"


def test_a_damaged_shard_is_named(tmp_path):
    OfflineCache(tmp_path, {}).fill(TEXTS, Lengths(TEXTS))
    (shard,) = tmp_path.glob("rows-*.jsonl")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"rows-.*\.jsonl is damaged at byte"):
        OfflineCache(tmp_path, {})


def test_missing_rows_and_wrong_numbers_are_errors(tmp_path):
    cache = OfflineCache(tmp_path, {})
    with pytest.raises(KeyError):
        next(cache.rows(["nowhere"]))
    with pytest.raises(ValueError, match="need as many rows"):
        cache.add(["a", "b"], [{}])
    with pytest.raises(ValueError, match="JSON"):
        cache.add(["a"], [{"score": float("nan")}])
    assert not list(tmp_path.glob("rows-*"))


def test_two_writers_of_one_block_leave_one_whole_file(tmp_path):
    first, second = (OfflineCache(tmp_path, {}) for _ in range(2))
    for cache in (first, second):
        cache.fill(TEXTS, Lengths(TEXTS))
    assert len(list(tmp_path.glob("rows-*.jsonl"))) == 1
    assert list(OfflineCache(tmp_path, {}).rows(TEXTS)) == list(first.rows(TEXTS))


def test_progress_sees_the_blocks(tmp_path):
    seen = []

    def progress(blocks):
        seen.append(list(blocks))
        return blocks

    OfflineCache(tmp_path, {}).fill(TEXTS, Lengths(TEXTS), block_size=3, progress=progress)
    assert seen == [[0, 3]]
    assert json.loads((tmp_path / CLAIM).read_text()) == {}


def test_rows_of_more_shards_than_a_process_may_open(tmp_path):
    texts = [str(number) for number in range(20)]
    cache = OfflineCache(tmp_path, {})
    cache.fill(texts, Lengths(texts), block_size=1)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is not in use
    os.close(free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 4, before[1]))
    try:
        actual = list(cache.rows(texts))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert [row["length"] for row in actual] == [len(text) for text in texts]
