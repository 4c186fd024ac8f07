"""Batches of texts with several views."""

import pytest
import torch

from common.config import UserError
from common.data.module import ContrastiveData
from common.data.text.views import TextViews
from common.encoders.text.template import special_tokens
from common.encoders.text.tiny_tokenizer import tiny_tokenizer

TEXTS = ["a cat", "dogs and cats and a very long sentence about both of them", "x", "to be or not"]
ROWS = [(text,) for text in TEXTS]
KEYS = [(2, 0), (0, 0), (3, 0)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_rows_equal_the_tokenizers_own_batch(tokenizer):
    """Checklist 8 and 13: cut at max_length with the end kept, padded to the longest row."""
    batch = TextViews(ROWS, tokenizer, max_length=8, views=2)[[(i, 0) for i in range(4)]]
    expected = tokenizer(
        TEXTS * 2, truncation=True, max_length=8, padding=True, return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    assert batch["ids"].tolist() == [0, 1, 2, 3]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64


def test_views_are_view_major_and_padded_together(tokenizer):
    rows = [("a", "b c", "d"), ("e", "f", "g h i j k")]
    batch = TextViews(rows, tokenizer)[[(1, 0), (0, 0)]]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
    assert texts == ["e", "a", "f", "b c", "g h i j k", "d"]
    assert batch["input_ids"].shape == (6, 7)
    assert batch["ids"].tolist() == [1, 0]


def test_repeated_views_are_equal_without_augmentation(tokenizer):
    batch = TextViews(ROWS, tokenizer, views=3)[KEYS]
    first, second, third = batch["input_ids"].chunk(3)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_padding_follows_the_batch_not_the_set(tokenizer):
    views = TextViews(ROWS, tokenizer, views=2)
    assert views[[(2, 0)]]["input_ids"].shape == (2, 3)
    assert views[[(1, 0)]]["input_ids"].shape[1] > 10


def drop_first(ids, rng, view):
    return ids[1:] if view == 1 else ids


def noisy(ids, rng, view):
    return [*ids, int(rng.integers(5, 200))]


def test_token_augmentation_sees_plain_ids_before_they_are_cut(tokenizer):
    views = TextViews(ROWS, tokenizer, views=2, augment=drop_first, max_length=8)
    plain = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"]
    first, second = views[[(1, 0)]]["input_ids"].tolist()
    assert first[1:-1] == plain[:6]
    assert second[1:-1] == plain[1:7]
    assert first[0] == second[0] == tokenizer.cls_token_id
    assert first[-1] == second[-1] == tokenizer.sep_token_id


def test_augmentation_is_a_function_of_seed_epoch_index_and_view(tokenizer):
    views = TextViews(ROWS, tokenizer, views=2, augment=noisy, seed=3)
    first = views[KEYS]["input_ids"]
    assert torch.equal(first, views[KEYS]["input_ids"])
    lone = views[[(3, 0)]]["input_ids"]
    size = lone.shape[1]
    assert torch.equal(lone[0], first[2][:size])  # whatever the batch
    assert not torch.equal(lone[0], lone[1])  # views differ
    assert not torch.equal(lone, views[[(3, 1)]]["input_ids"])  # epochs differ
    other = TextViews(ROWS, tokenizer, views=2, augment=noisy, seed=4)
    assert not torch.equal(lone, other[[(3, 0)]]["input_ids"])


def test_text_augmentation(tokenizer):
    def upper(text, rng, view):
        return text if view == 0 else f"{text} {int(rng.integers(10))}"

    batch = TextViews(ROWS, tokenizer, views=2, augment_text=upper)[[(2, 0)]]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
    assert texts[0] == "x"
    assert texts[1].startswith("x ")
    assert texts[1][2:].isdigit()


def test_emptied_and_missing_texts_leave_the_special_tokens(tokenizer):
    """Checklist 13: missing sentences do not crash the collator."""
    rows = [("a", None), ("", " ")]
    batch = TextViews(rows, tokenizer, augment=lambda ids, rng, view: [])[[(0, 0), (1, 0)]]
    ends = [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert batch["input_ids"].tolist() == [ends] * 4
    assert batch["attention_mask"].tolist() == [[1, 1]] * 4


def test_lengths_are_of_the_longest_column_and_cut(tokenizer):
    views = TextViews([("a b c", "d"), ("e", "f g"), ("h " * 50, "i")], tokenizer, max_length=12)
    assert views.lengths.tolist() == [5, 4, 12]
    for index, length in enumerate(views.lengths):
        assert views[[(index, 0)]]["input_ids"].shape[1] == length


def test_special_tokens_are_found(tokenizer):
    assert special_tokens(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def test_tokenizer_without_special_tokens():
    tokenizer = tiny_tokenizer()
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    assert special_tokens(tokenizer) == ([], [])
    assert TextViews(ROWS, tokenizer, views=2)[[(0, 0)]]["input_ids"].shape[0] == 2


def test_unusable_rows_and_options(tokenizer):
    with pytest.raises(UserError, match="common number of columns"):
        TextViews([("a",), ("b", "c")], tokenizer)
    with pytest.raises(UserError, match="common number of columns"):
        TextViews([], tokenizer)
    with pytest.raises(UserError, match="3 views cannot be made of 2 columns"):
        TextViews([("b", "c")], tokenizer, views=3)
    with pytest.raises(UserError, match="no room"):
        TextViews(ROWS, tokenizer, max_length=2)
    bare = tiny_tokenizer()
    bare.pad_token = None
    with pytest.raises(UserError, match="padding token"):
        TextViews(ROWS, bare)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_bucketed_batches_with_any_number_of_workers(tokenizer, workers):
    rows = [("a " * (i % 13 + 1),) for i in range(64)]
    views = TextViews(rows, tokenizer, views=2, augment=noisy, seed=1)

    def batches(number):
        data = ContrastiveData(
            views,
            batch_size=8,
            seed=1,
            num_workers=number,
            lengths=views.lengths,
            bucket_batches=4,
        )
        iterator = iter(data.train_dataloader())
        return [next(iterator) for _ in range(10)]

    for one, other in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["ids"], other["ids"])
