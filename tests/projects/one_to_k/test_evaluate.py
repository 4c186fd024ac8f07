"""The second stage, masks and lengths of captions: what the config says reaches the model."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from projects.one_to_k import data as sources
from projects.one_to_k import evaluate as evaluation
from projects.one_to_k.data import EvalSet, build_tokenizer
from projects.one_to_k.evaluate import chance, ranks_of
from projects.one_to_k.network import CrossLingualNetwork
from projects.one_to_k.retrieval_sets import LanguageSet
from projects.one_to_k.two_stage import best_ranks, rescored
from projects.one_to_k.validation import ValidatedOneToK
from tests.projects.one_to_k.conftest import PLAIN, config, module_of

ONE = LanguageSet(tuple("abcdef"), ("t",) * 6, (0, 1, 2, 3, 4, 5))


@pytest.mark.parametrize("k", [2, 4])
def test_second_stage_scores_pairs_of_a_fold_by_their_places_in_the_set(k):
    """Images and texts keep their sides in both directions."""
    torch.manual_seed(1)
    scores, table = torch.randn(6, 6), torch.randn(6, 6)
    cfg, fold = config(f"eval.k_test={k}"), range(2, 6)

    def match(pairs):  # of image and text
        return table[pairs[:, 0], pairs[:, 1]]

    actual = evaluation._fold_ranks(cfg, scores, match, ONE, fold)
    some, own = scores[2:, 2:], [[i] for i in range(4)]
    small = table[2:, 2:]
    i2t = rescored(some, lambda p: small[p[:, 0], p[:, 1]], k)
    t2i = rescored(some.T, lambda p: small[p[:, 1], p[:, 0]], k)
    assert actual.image_to_text.tolist() == best_ranks(i2t, own).tolist()
    assert actual.text_to_image.tolist() == best_ranks(t2i, own).tolist()
    wrong = rescored(some.T, lambda p: small[p[:, 0], p[:, 1]], k)
    assert best_ranks(wrong, own).tolist() != best_ranks(t2i, own).tolist()


def test_the_match_of_a_pair_is_the_second_logit_of_its_own_image_and_text():
    def match(states, mask, tokens):
        assert torch.equal(mask, states)
        return torch.stack([tokens, 10 * tokens + states], 1)

    texts, images = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0])
    pairs = torch.tensor([[1, 2], [0, 1]])  # of image and text
    network = SimpleNamespace(match=match)
    assert evaluation._match(network, images, texts, texts, pairs).tolist() == [62.0, 51.0]


def test_languages_of_other_images_are_matched_with_their_own(monkeypatch):
    """The second language has one of the images; captions are cut to the config's words."""
    cfg, read = config("eval.k_test=1", "data.max_words=2"), []
    module = module_of().eval()
    tokenizer = build_tokenizer(cfg.model)
    size = cfg.data.image_size
    pixels = {name: torch.full((3, size, size), float(i)) for i, name in enumerate("ab")}
    sets = {
        "en": LanguageSet(("a", "b"), ("one two three", "four"), (0, 1)),
        "de": LanguageSet(("b",), ("vier",), (0,)),
    }
    loaded = EvalSet(sets, lambda names: torch.stack([pixels[name] for name in names]))
    given = []
    match = CrossLingualNetwork.match

    def watched(self, states, mask, tokens):
        given.append(tokens)
        return match(self, states, mask, tokens)

    def tokenized(texts):
        read.extend(texts)
        return tokenizer(texts)

    monkeypatch.setattr(CrossLingualNetwork, "match", watched)
    with torch.no_grad():
        ranks_of(cfg, module.network, loaded, tokenized)
        own = module.network.image_encoder(pixels["b"][None])
    assert read == ["one two", "four", "vier"]
    assert all(torch.allclose(tokens, own, atol=1e-5) for tokens in given[-2:])


def test_masks_have_the_options_of_the_config(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        sources, "mask_spans", lambda ids, length, rng, **rest: asked.update(rest, length=length)
    )
    words = ["mask_probability=0.3", "max_masks=5", "span_probability=0.7", "max_span=4"]
    cfg = config(*(f"data.{word}" for word in words))
    tokenizer = build_tokenizer(cfg.model)
    ids = tokenizer(["red ball"])[0].numpy()
    assert (ids == tokenizer.tokenizer.pad_token_id).any()
    sources._mask(cfg, tokenizer, ids, None)
    assert asked == {
        "length": int((ids != tokenizer.tokenizer.pad_token_id).sum()),
        "mask_id": tokenizer.mask_id,
        "vocab_size": tokenizer.vocab_size,
        "probability": 0.3,
        "max_masks": 5,
        "span_probability": 0.7,
        "max_span": 4,
    }


def test_chance_of_few_items_is_at_most_one():
    assert chance(4) == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert chance(100) == pytest.approx((1 + 5 + 10) / 300)


def test_validation_is_of_the_network_that_is_given():
    network = module_of(*PLAIN).network
    assert ValidatedOneToK(config(*PLAIN), network).network is network


def test_the_source_has_chance_temperature_and_the_items_of_the_trained_model(monkeypatch):
    """Chance is among the images, not the languages; the items are not those before training."""
    saved, asked = [], iter(["trained", "before"])
    monkeypatch.setattr(evaluation, "build_tokenizer", lambda model: None)
    sets = {config().data.source: SimpleNamespace()}
    monkeypatch.setattr(evaluation, "evaluation_sets", lambda *_: sets)
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluation, "untrained", lambda *_: SimpleNamespace(network=None))
    monkeypatch.setattr(evaluation, "ranks_of", lambda *_: (next(asked), [torch.zeros(40, 40)] * 2))
    monkeypatch.setattr(evaluation, "table", lambda *_: {"recall_mean": 0.5})
    monkeypatch.setattr(evaluation, "save_items", lambda _, name, ranks, own: saved.append(ranks))
    monkeypatch.setattr(evaluation, "show", lambda *_: None)
    module = SimpleNamespace(network=None, temperature=lambda: torch.tensor(0.25))
    metrics = evaluation.evaluate(config(), module, None)
    assert metrics["temperature"] == 0.25
    assert metrics["recall_mean_chance"] == pytest.approx((1 + 5 + 10) / 40 / 3)
    assert saved == ["trained"]
