"""Tokens replaced by a masked language model."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from common.data.text.views import TextViews
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from projects.simcse.mlm_substitution import MlmSubstitution

WORDS = "the cat sat on a mat and the dog lay on the floor near it"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(256)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=256, intermediate_size=32, initializer_range=0.5, **sizes)
    return BertForMaskedLM(config).train()


def rngs(count, seed=0):
    return [np.random.default_rng((seed, i)) for i in range(count)]


def plain(tokenizer, *texts):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def changed(before, after):
    return [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5])
def test_exactly_the_drawn_share_is_replaced_and_nothing_else(tokenizer, model, rate):
    rows = plain(tokenizer, WORDS, "a cat", "x")
    actual = MlmSubstitution(model, tokenizer, rate, 64)(rows, rngs(3))
    for row, new in zip(rows, actual, strict=True):
        assert len(changed(row, new)) == max(1, round(rate * len(row)))
        assert not set(new) & set(tokenizer.all_special_ids)
    assert rows == plain(tokenizer, WORDS, "a cat", "x")  # a copy was changed


def test_the_token_is_the_model_s_best_other_one(tokenizer, model):
    """By hand: mask the place, take the best logit but the old token and special ones."""
    (row,) = plain(tokenizer, WORDS)
    (new,) = MlmSubstitution(model, tokenizer, 0.01, 64)([row], rngs(1))
    (place,) = changed(row, new)
    ids = torch.tensor([tokenizer(WORDS)["input_ids"]])
    ids[0, 1 + place] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits[0, 1 + place]
    model.train()
    ranked = logits.argsort(descending=True).tolist()
    allowed = [i for i in ranked if i != row[place] and i not in tokenizer.all_special_ids]
    assert new[place] == allowed[0]


def test_masked_places_are_hidden_from_the_model(tokenizer, model):
    """What stood there does not decide, unless it is the model's own choice."""
    (row,) = plain(tokenizer, WORDS)
    other = list(row)
    substitute = MlmSubstitution(model, tokenizer, 0.01, 64)
    (first,) = substitute([row], rngs(1))
    (place,) = changed(row, first)
    other[place] = next(i for i in range(200, 256) if i not in (row[place], first[place]))
    (second,) = substitute([other], rngs(1))
    assert second == first


def test_neighbours_modes_and_generator_do_not_matter(tokenizer, model):
    rows = plain(tokenizer, WORDS, "a small dog", "the men work")
    substitute = MlmSubstitution(model, tokenizer, 0.3, 64)
    together = substitute(rows, rngs(3))
    torch.manual_seed(9)
    alone = [substitute([row], [rng])[0] for row, rng in zip(rows, rngs(3), strict=True)]
    assert together == alone
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert substitute(rows, rngs(3, seed=1)) != together


def test_long_texts_are_cut_and_empty_ones_stay(tokenizer, model):
    rows = [*plain(tokenizer, WORDS), []]
    long, empty = MlmSubstitution(model, tokenizer, 0.15, 10)(rows, rngs(2))
    assert len(long) == 8
    assert empty == []
    assert MlmSubstitution(model, tokenizer, 0.15, 10)([[]], rngs(1)) == [[]]


def test_views_take_it_for_a_whole_batch(tokenizer, model):
    replace = MlmSubstitution(model, tokenizer, 0.3, 32)
    seen = []

    def augment(rows, draws, view):
        seen.append((len(rows), view))
        return replace(rows, draws) if view else rows

    views = TextViews([(WORDS,), ("a cat",)], tokenizer, views=2, augment_batch=augment)
    batch, again = views[[(0, 0), (1, 0)]], views[[(0, 0), (1, 0)]]
    assert seen == [(2, 0), (2, 1)] * 2
    first, second = batch["input_ids"].chunk(2)
    assert (first != second).any(dim=1).all()
    assert torch.equal(batch["input_ids"], again["input_ids"])
    assert not torch.equal(views[[(0, 1), (1, 1)]]["input_ids"][2:], second)
    lone = views[[(1, 0)]]["input_ids"]
    assert torch.equal(lone[1], second[1, : lone.shape[1]])


def test_bad_options_are_refused(tokenizer, model):
    with pytest.raises(ValueError, match=r"a rate in \(0, 1\), got 1"):
        MlmSubstitution(model, tokenizer, 1.0, 32)
