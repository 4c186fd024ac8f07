"""Repetition and the two views: golden outputs and checklist items 1 and 2."""

import random

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.text.augment import Repetition
from common.data.text.repeated_views import RepeatedSubwords, RepeatedWords
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.families.sentences.module import build_encoder
from projects.esimcse.data import held_out_sentences, training_rows, training_views
from tests.projects.esimcse.conftest import GOLDEN, config


class PythonDraws:
    """Draws of Python's generator behind the two methods that repetition uses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def integers(self, bound):
        return self.random.randrange(bound)

    def choice(self, count, size, replace):
        assert not replace
        return np.array(self.random.sample(range(count), size))


def drop_repeats(longer, shorter):
    """How many elements of `longer` repeat the one before, if the rest is `shorter`; else None."""
    left, doubled = list(shorter), 0
    previous = None
    for element in longer:
        if left and element == left[0]:
            previous = left.pop(0)
        elif element == previous:
            previous, doubled = None, doubled + 1
        else:
            return None
    return None if left else doubled


def views_of(*overrides):
    cfg = config(*overrides)
    torch.manual_seed(0)
    return training_views(cfg, build_encoder(cfg.model))


# -- golden --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["repetition_cases"], ids=["seed42", "seed0"])
def test_item_12_repeated_ids_equal_the_golden_ones(case):
    """Checklist 12: the official sub-word repetition, id by id, with its draws."""
    draws = PythonDraws(case["python_random_seed"])
    augment = RepeatedSubwords(Repetition(case["dup_rate"]), case["max_seq_length"] - 2)
    for count, length, expected in zip(
        case["content_token_counts"], case["anchor_lengths"], case["repeated_view_ids"], strict=True
    ):
        content = [1000 + k for k in range(count)]
        assert 2 + len(augment(content, draws, 0)) == length
        assert [101, *augment(content, draws, 1), 102] == expected


def test_item_12_twin_another_seed_gives_other_ids():
    """The comparison with the golden ids can fail."""
    first, second = GOLDEN["repetition_cases"]
    augment = RepeatedSubwords(Repetition(first["dup_rate"]), 30)
    draws = PythonDraws(second["python_random_seed"])
    actual = [
        [101, *augment([1000 + k for k in range(n)], draws, 1), 102]
        for n in first["content_token_counts"]
    ]
    assert actual != first["repeated_view_ids"]


# -- checklist -----------------------------------------------------------------------------------


def test_item_1_first_view_stays_and_second_doubles_inner_tokens_in_place():
    """Checklist 1: through tokenizer and batching, for many accesses."""
    data = views_of("repetition.rate=1.0")
    plain = views_of("repetition.level=none")
    keys = [(i, epoch) for epoch in range(3) for i in range(len(data))]
    both, raw = data[keys], plain[keys]
    rows = len(keys)
    lengths = both["attention_mask"].sum(1)
    grown = 0
    for i in range(rows):
        first = both["input_ids"][i, : lengths[i]].tolist()
        second = both["input_ids"][rows + i, : lengths[rows + i]].tolist()
        assert first == raw["input_ids"][i, : raw["attention_mask"][i].sum()].tolist()
        assert (second[0], second[-1]) == (first[0], first[-1]) == (2, 3)
        assert second.count(2) == second.count(3) == 1
        assert drop_repeats(second, first) == len(second) - len(first)
        grown += len(second) > len(first)
    assert grown > rows / 2
    assert torch.equal(raw["input_ids"][:rows], raw["input_ids"][rows:])


def test_item_1_twin_the_check_sees_a_changed_order():
    """The check of item 1 refuses a swap, a triple and a foreign token."""
    assert drop_repeats([1, 1, 2, 3], [1, 2, 3]) == 1
    assert drop_repeats([1, 3, 2], [1, 2, 3]) is None
    assert drop_repeats([1, 1, 1, 2, 3], [1, 2, 3]) is None
    assert drop_repeats([1, 9, 2, 3], [1, 2, 3]) is None


@pytest.mark.parametrize("rate", [0.28, 0.32, 1.0])
def test_item_2_extra_length_lies_in_the_code_s_range_and_fills_it(rate):
    """Checklist 2: [0, min(10, floor(rate len)) - 1] with len counting both special tokens."""
    repeat, rng = Repetition(rate), np.random.default_rng(0)
    for count in (0, 1, 3, 4, 5, 10, 30):
        bound = min(10, int(rate * (count + 2)), count + 1)
        extra = {len(repeat(range(count), rng)) - count for _ in range(400)}
        assert extra == set(range(max(1, bound))), count
    assert [Repetition(0.32).bound(count) for count in (0, 1, 4, 5)] == [0, 0, 1, 2]


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 2), (10, 3), (30, 9)])
def test_paper_rule_reaches_its_upper_end(count, most):
    repeat, rng = Repetition(0.32, rule="paper"), np.random.default_rng(0)
    extra = {len(repeat(range(count), rng)) - count for _ in range(400)}
    assert extra == set(range(most + 1))


def test_words_are_doubled_but_never_the_last_one():
    augment, rng = RepeatedWords(Repetition(0.5, "word")), np.random.default_rng(0)
    words = [f"w{i}" for i in range(8)]
    text = " ".join(words)
    assert augment(text, rng, 0) == text
    extra, doubled = set(), set()
    for _ in range(300):
        actual = augment(text, rng, 1).split(" ")
        assert drop_repeats(actual, words) == len(actual) - len(words)
        extra.add(len(actual) - len(words))
        doubled |= {w for w in words if actual.count(w) == 2}
    assert extra == set(range(4))  # max(2, floor(0.5 * 8)), the end left out
    assert doubled == set(words[:-1])
    assert all(augment("one", rng, 1) == "one" for _ in range(20))
    assert {augment("a b", rng, 1) for _ in range(50)} == {"a b", "a a b"}


def test_draws_are_even_over_number_and_place():
    repeat, rng = Repetition(0.32), np.random.default_rng(0)
    places, extra = np.zeros(10), np.zeros(3)
    for _ in range(6000):
        actual = repeat(range(10), rng)
        extra[len(actual) - 10] += 1
        for i in set(actual):
            places[i] += actual.count(i) == 2
    np.testing.assert_allclose(extra / 6000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(places / places.sum(), 0.1, atol=0.02)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": 1.5}, {"cap": 0}])
def test_repetition_refuses_bad_options(options):
    with pytest.raises(ValueError, match="rate must be in"):
        Repetition(**options)


# -- views ---------------------------------------------------------------------------------------


def test_long_texts_are_cut_before_repetition_so_the_second_view_may_be_longer():
    data = views_of("data.max_length=8", "repetition.rate=1.0")
    actual = data[[(i, e) for e in range(4) for i in range(len(data))]]
    first, second = actual["attention_mask"].sum(1).chunk(2)
    assert int(first.max()) == 8
    assert int(second.max()) == 8 + 6  # min(10, floor(1.0 * 8)) - 1 is 7, six inner tokens
    words = views_of("data.max_length=8", "repetition.level=word", "repetition.rate=1.0")
    cut = words[[(i, 0) for i in range(len(words))]]
    assert int(cut["attention_mask"].sum(1).max()) == 8


def test_second_view_depends_on_seed_epoch_and_index_alone():
    data, other = views_of(), views_of("seed=1")
    whole, alone = data[[(3, 0), (9, 0), (4, 0)]], data[[(9, 0)]]
    width = alone["input_ids"].shape[1]
    assert torch.equal(whole["input_ids"][4, :width], alone["input_ids"][1])
    keys = [(i, 0) for i in range(96)]
    later = [(i, 1) for i in range(96)]
    lengths = data[keys]["attention_mask"].sum(1)
    assert torch.equal(lengths, data[keys]["attention_mask"].sum(1))
    assert not torch.equal(lengths, data[later]["attention_mask"].sum(1))
    assert not torch.equal(lengths, other[keys]["attention_mask"].sum(1))


def test_views_that_the_encoder_cannot_read_are_refused():
    with pytest.raises(UserError, match="to 73 tokens, the encoder reads 64"):
        views_of("data.max_length=64")


@pytest.mark.slow
def test_equal_parts_draw_half_short_and_half_long_sentences():
    """The corpus of the mini experiment; a seed draws another half."""
    cfg = config("data.limit=200", "length.sentences=100", name="mini")
    rows = training_rows(cfg)
    assert len(rows) == 200
    words = [np.mean([len(text.split()) for (text,) in part]) for part in (rows[:100], rows[100:])]
    assert words[0] < 10 < 15 < words[1]
    assert rows != training_rows(config("data.limit=200", "seed=1", name="mini"))
    held_out = held_out_sentences(cfg)
    assert len(held_out) == 100
    everything = {text for (text,) in training_rows(config(name="mini"))}
    assert not everything & set(held_out)


def test_a_file_of_pairs_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\nx,y\n", encoding="utf-8")
    cfg = config("data.source=file", f"data.file={tmp_path}/pairs.csv", "data.limit=null")
    with pytest.raises(UserError, match="one sentence a row"):
        training_rows(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.source=nli"], "single sentences"),
        (["data.equal_parts=true", "data.limit=null"], "divides among them"),
        (["data.equal_parts=true", "data.parts=[book,wiki]", "data.limit=9"], "divides among"),
        (
            ["data.equal_parts=true", "data.source=file", "data.file=a.txt", "data.parts=[book]"],
            "set data.equal_parts=false",
        ),
        (["repetition.rate=0"], r"repetition.rate must be in \(0, 1\]"),
        (["momentum.decay=1.5"], r"momentum.decay must be in \[0, 1\]"),
        (["momentum.decay=0", "momentum.init=random"], "needs a second network"),
        (["queue.size=-1"], "queue.size must be >= 0"),
        (["method.temperature=0"], "must be > 0"),
        (["length.sentences=2"], "length.sentences must be >= 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        config(*overrides)


def test_special_tokens_of_the_built_in_tokenizer():
    """What the checks above take [CLS] and [SEP] for."""
    assert tiny_tokenizer()("a")["input_ids"][::2] == [2, 3]
