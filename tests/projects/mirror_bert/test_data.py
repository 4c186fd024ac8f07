"""Strings, views, masking, the pair reader, and the lexical split."""

import numpy as np
import pytest
import torch

from common.config import UserError
from common.data.text.augment import SpanMask
from common.data.text.sets import load_sts
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.mirror_bert.data import (
    MirrorViews,
    mirror_views,
    num_samples,
    span_mask,
    training_rows,
)
from projects.mirror_bert.lexicon import (
    evaluate_titles,
    occupation_part,
    title_search,
    training_titles,
)
from tests.projects.mirror_bert.conftest import GOLDEN, config

LONG = "Three young women standing in a room together."
SHORT = "a room"


class LegacyRng:
    """The generator of the reference code behind the interface of ours."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def integers(self, high: int) -> int:
        return int(self.state.randint(0, high))


@pytest.fixture
def text_file(tmp_path):
    def write(*lines: str) -> str:
        (tmp_path / "strings.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"data.root={tmp_path}"

    return write


# -- masking and views ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["span_mask_cases"])
def test_checklist_10_masked_strings_equal_the_golden_cases(case):
    """Checklist 10: character level, first occurrence, one stream of draws over the sentences."""
    cfg = config(f"augment.span_chars={case['mask_len']}")
    views = MirrorViews(span_mask(cfg, tiny_tokenizer()))
    rng = LegacyRng(case["numpy_legacy_seed"])
    actual = [views(text, rng, 1) for text in GOLDEN["span_mask_sentences"]]
    assert actual == case["outputs"]


def test_checklist_10_negative_twin_another_seed_masks_elsewhere():
    case = GOLDEN["span_mask_cases"][0]
    rng = LegacyRng(case["numpy_legacy_seed"] + 7)
    mask = SpanMask(case["mask_len"])
    assert [mask(text, rng) for text in GOLDEN["span_mask_sentences"]] != case["outputs"]


def test_checklist_2_view_1_is_raw_and_view_2_masked(text_file):
    """Checklist 2: the first view is the string itself; short strings are equal in both views."""
    cfg = config(
        "data.source=file",
        "data.file=strings.txt",
        "data.limit=null",
        "data.max_length=64",
        text_file(LONG, SHORT),
    )
    tokenizer = tiny_tokenizer()
    views = mirror_views(cfg, tokenizer)
    seen = set()
    for epoch in range(6):
        ids = views[[(0, epoch), (1, epoch)]]["input_ids"]
        raw, short, masked, short_again = (row[row != 0].tolist() for row in ids)
        assert raw == tokenizer(LONG)["input_ids"]
        assert short == short_again == tokenizer(SHORT)["input_ids"]
        assert masked.count(tokenizer.mask_token_id) == 1
        assert tokenizer.mask_token_id not in raw
        seen.add(tuple(masked))
    assert len(seen) > 3  # a fresh draw at every access


def test_span_0_leaves_both_views_alike():
    cfg = config("augment.span_chars=0")
    both = mirror_views(cfg, tiny_tokenizer())[[(0, 0), (1, 0), (2, 3)]]["input_ids"]
    assert torch.equal(both[:3], both[3:])


def test_batches_do_not_depend_on_the_order_of_access():
    views = mirror_views(config(), tiny_tokenizer())
    whole, alone = views[[(3, 0), (9, 0), (4, 1)]], views[[(9, 0)]]
    row = whole["input_ids"][4]
    assert row[row != 0].tolist() == alone["input_ids"][1][alone["input_ids"][1] != 0].tolist()


def test_mask_string_is_literal_or_the_tokenizer_s():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    assert span_mask(config(), tokenizer).mask == "[MASK]"
    assert span_mask(config("augment.mask=tokenizer"), tokenizer).mask == "<mask>"
    tokenizer.mask_token = None
    with pytest.raises(UserError, match=r"augment\.mask=literal"):
        span_mask(config("augment.mask=tokenizer"), tokenizer)


# -- sources -------------------------------------------------------------------------------------


def test_pair_lines_that_do_not_split_in_two_are_skipped(text_file):
    root = text_file("a||b", "alone", "a||b||c", "", "c||d", "a||b")
    words = ["data.source=file", "data.file=strings.txt", "data.limit=null", root]
    assert training_rows(config(*words, "data.pairwise=true")) == [
        ("a", "b"),
        ("c", "d"),
        ("a", "b"),
    ]
    once = training_rows(config(*words, "data.pairwise=true", "data.dedup=true"))
    assert once == [("a", "b"), ("c", "d")]
    assert len(training_rows(config(*words))) == 5  # as they are: copies stay, empty lines go
    assert training_rows(config(*words, "data.dedup=true"))[0] == ("a||b",)
    pairs = mirror_views(config(*words, "data.pairwise=true"), tiny_tokenizer())
    first, second = pairs[[(1, 0)]]["input_ids"]
    assert first.tolist() != second.tolist()


def test_files_that_cannot_serve_are_named(text_file, tmp_path):
    words = ["data.source=file", "data.file=strings.txt", "data.limit=null"]
    with pytest.raises(UserError, match=r"strings\.txt does not exist"):
        training_rows(config(*words, f"data.root={tmp_path}"))
    assert num_samples(config(*words, f"data.root={tmp_path}")) == 0
    root = text_file("no pair here")
    with pytest.raises(UserError, match=r"no line of 'text1\|\|text2'"):
        training_rows(config(*words, "data.pairwise=true", root))
    with pytest.raises(UserError, match="lower data.limit"):
        training_rows(config("data.source=file", "data.file=strings.txt", "data.limit=9", root))


@pytest.mark.parametrize("source", ["sentences", "lexicon"])
@pytest.mark.slow
def test_bundled_sources_draw_ten_thousand_strings_by_seed(source):
    words = [f"data.source={source}", "data.limit=10000"]
    rows = training_rows(config(*words))
    assert len(rows) == len(set(rows)) == 10_000
    assert {len(row) for row in rows} == {1}
    other = training_rows(config(*words, "seed=1"))
    assert rows == training_rows(config(*words))
    assert rows != other


@pytest.mark.slow
def test_no_text_of_the_sts_b_evaluation_is_trained_on():
    rows = {text for (text,) in training_rows(config("data.source=sentences", "data.limit=null"))}
    for name in ("stsb-dev", "stsb-test"):
        pairs = load_sts(None, name)
        assert not rows & {*pairs.first, *pairs.second}
    assert len(rows & set(load_sts(None, "stsb-train").first)) > 3000


# -- lexical level -------------------------------------------------------------------------------


def test_titles_of_held_out_occupations_are_neither_trained_on_nor_shared():
    train = set(training_titles(None))
    parts = {part: title_search(None, part) for part in ("dev", "test")}
    assert not train & {*parts["dev"].queries, *parts["test"].queries}
    assert len(parts["test"].queries) > 2000
    preferred = {title.casefold() for title in parts["test"].gallery}
    assert not preferred & {query.casefold() for query in parts["test"].queries}
    fractions = [occupation_part(f"uri/{i}") for i in range(5000)]
    assert fractions.count("test") / 5000 == pytest.approx(0.2, abs=0.02)


def test_a_shared_alternative_title_has_all_its_occupations():
    task = title_search(None, "test")
    shared = [i for i, owners in enumerate(task.relevant) if len(owners) > 1]
    assert shared
    few = title_search(None, "test", 100)
    assert len(few.queries) == len(few.relevant) == 100
    assert few == title_search(None, "test", 100)
    assert set(few.queries) < set(task.queries)


def test_recall_of_an_encoder_that_knows_and_of_one_that_does_not():
    task = title_search(None, "dev", 50)
    place = {title: i for i, title in enumerate(task.gallery)}
    place |= {query: task.relevant[i][0] for i, query in enumerate(task.queries)}
    knows, hits = evaluate_titles(
        lambda texts: torch.eye(len(task.gallery))[[place[t] for t in texts]], task
    )
    assert knows["esco_recall_at_1"] == knows["esco_mrr"] == 1.0
    assert hits == [1.0] * 50
    collapsed, _ = evaluate_titles(lambda texts: torch.ones(len(texts), 4), task)
    assert collapsed["esco_recall_at_1"] == 0.0
    assert collapsed["esco_recall_at_1_chance"] < 0.01
