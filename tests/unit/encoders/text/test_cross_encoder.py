"""Cross-encoders: layout of a pair, scores, heads; words and the attention that they get."""

import pytest
import torch
from transformers import AutoModel

from common.config import UserError
from common.encoders.text.cross_encoder import (
    CrossEncoder,
    cross_encoder,
    cut_longest,
    pair_ids,
)
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.export.cross_encoder import load_cross_encoder, save_cross_encoder
from projects.b_prop.word_attention import cls_attention, expose_attention, word_pieces

SMALL = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return cross_encoder("random", config=SMALL, **options)


def test_pair_ids_are_those_of_the_tokenizer_and_cut_the_second_alone():
    tokenizer = tiny_tokenizer(300)
    first, second = "the people", "of the world and more"
    expected = tokenizer(first, second, return_token_type_ids=True)
    own = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (first, second)]
    ids, segments = pair_ids(*own, tokenizer, 99)
    assert ids == expected["input_ids"]
    assert segments == expected["token_type_ids"]
    cut, _ = pair_ids(*own, tokenizer, len(own[0]) + 5)
    assert cut == [*ids[: len(own[0]) + 4], tokenizer.sep_token_id]
    with pytest.raises(ValueError, match="no room"):
        pair_ids(own[0], own[1], tokenizer, len(own[0]) + 2)


def test_scores_come_in_the_given_order_whatever_the_batch():
    ranker = small().train()
    pairs = [("a", "b " * n) for n in (9, 1, 4, 2)]
    alone = torch.cat([ranker.score([pair]) for pair in pairs])
    torch.testing.assert_close(ranker.score(pairs, batch_size=3), alone, atol=1e-6, rtol=1e-5)
    assert ranker.training
    long_first = ranker.tokenize([("people " * 40, "x y z")])
    assert long_first["input_ids"].shape[1] <= 32
    assert long_first["token_type_ids"].sum() > 1
    with pytest.raises(ValueError, match="no pairs"):
        ranker.score([])


def test_a_classifier_has_a_logit_for_each_class_and_states_for_a_second_head():
    classifier = small(num_labels=3)
    assert classifier.score([("a", "b"), ("c", "d")]).shape == (2, 3)
    logits, states = classifier.eval().with_states(**classifier.tokenize([("a", "b")]))
    assert states.shape == (1, 5, 16)
    pooled = torch.tanh(classifier.encoder.pooler.dense(states[:, 0]))
    torch.testing.assert_close(classifier.model.classifier(pooled), logits)


def test_a_head_is_kept_or_drawn_and_never_by_chance(tmp_path):
    ranker = small().eval()
    save_cross_encoder(ranker, tmp_path / "ranker")
    again = load_cross_encoder(tmp_path / "ranker")
    pairs = [("a", "b c"), ("d", "e")]
    kept, written = again.state_dict(), ranker.state_dict()
    assert kept.keys() == written.keys()
    assert all(torch.equal(kept[name], written[name]) for name in written)
    torch.testing.assert_close(again.score(pairs), ranker.score(pairs))
    assert load_cross_encoder(tmp_path / "ranker", max_length=12, max_first=4).max_length == 12
    drawn = cross_encoder(str(tmp_path / "ranker"), head="new")
    assert not torch.equal(drawn.model.classifier.weight, again.model.classifier.weight)
    assert torch.equal(drawn.encoder.pooler.dense.weight, again.encoder.pooler.dense.weight)
    assert {*drawn.head_parameters()} == {"classifier.weight", "classifier.bias"}
    folder = tmp_path / "plain"  # an encoder without head and pooler
    plain = AutoModel.from_config(ranker.model.config, add_pooling_layer=False)
    plain.save_pretrained(folder)
    ranker.tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="head=new"):
        cross_encoder(str(folder), head="keep")
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(cross_encoder(str(folder), num_labels=2).model.classifier.weight)
    assert heads[0].shape == (2, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    with pytest.raises(UserError, match="no head to keep"):
        cross_encoder("random", config=SMALL, head="keep")


def test_weights_that_do_not_fill_the_encoder_are_refused_with_a_new_head_too(tmp_path):
    ranker = small()
    ranker.model.save_pretrained(tmp_path)
    ranker.tokenizer.save_pretrained(tmp_path)
    import json

    about = json.loads((tmp_path / "config.json").read_text())
    for change in ({"num_hidden_layers": 3}, {"intermediate_size": 48}):
        (tmp_path / "config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(UserError, match=r"would start at random|cannot be loaded"):
            cross_encoder(str(tmp_path), head="new")


def test_lengths_that_do_not_fit_are_refused():
    for options, text in (
        ({"max_length": 33}, "at most 32"),
        ({"max_first": 29}, "no room"),
        ({"max_length": 8, "max_first": 5}, "no room"),
    ):
        with pytest.raises(UserError, match=text):
            small(**options)
    tokenizer = tiny_tokenizer(300)
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="pad_token"):
        CrossEncoder(small().model, tokenizer)


@pytest.mark.parametrize("kind", ["bert", "camembert", "mpnet", "roberta"])
def test_positions_that_a_model_keeps_for_itself_are_not_promised(kind):
    """Longer pairs than a model reads crashed; MPNet and CamemBERT count as RoBERTa does."""
    sizes = {
        "model_type": kind,
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 18,
    }
    model = cross_encoder("random", config=sizes)
    assert model.max_length == (18 if kind == "bert" else 16)
    assert model.score([("the people", "of the new world " * 9)]).isfinite().all()


def test_word_pieces_keep_whole_words():
    tokenizer = tiny_tokenizer(300)
    text = "The people: Zebra-like"
    (whole,) = word_pieces(tokenizer, [text], 99)
    assert whole.words == ["the", "people", ":", "zebra", "-", "like"]
    assert whole.ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    for limit in range(1, len(whole.ids)):
        (cut,) = word_pieces(tokenizer, [text], limit)
        assert len(cut.ids) <= limit
        assert whole.words[: len(cut.words)] == cut.words
        assert cut.first == whole.first[: len(cut.words)]
        after = whole.continues[len(cut.ids)]
        assert not after  # the next piece begins a word
    assert word_pieces(tokenizer, [""], 9)[0].words == []


def test_attention_of_the_first_position():
    model = expose_attention(small().encoder).eval()
    ids = torch.tensor([[2, 40, 50, 3], [2, 60, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        layers = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
        mean, top, one = (cls_attention(model, ids, mask, heads=h) for h in ("mean", "max", 1))
        lower = cls_attention(model, ids, mask, layer=0)
    torch.testing.assert_close(mean, layers[-1][:, :, 0].mean(1) * mask)
    torch.testing.assert_close(top, layers[-1][:, :, 0].amax(1) * mask)
    torch.testing.assert_close(one, layers[-1][:, 1, 0] * mask)
    torch.testing.assert_close(lower, layers[0][:, :, 0].mean(1) * mask)
    torch.testing.assert_close(mean.sum(1), torch.ones(2))
    assert mean[1, 3] == 0
    for options, text in (({"layer": 2}, "2 layers"), ({"heads": 2}, "2 heads")):
        with pytest.raises(UserError, match=text):
            cls_attention(model, ids, mask, **options)
    model.set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="expose_attention"):
        cls_attention(model, ids, mask)


def test_the_longer_text_is_cut():
    def popped(first, second, room):  # as released with BERT
        first, second = list(first), list(second)
        while len(first) + len(second) > room:
            (first if len(first) > len(second) else second).pop()
        return first, second

    for a in range(9):
        for b in range(9):
            for room in (2, 5, 6):
                actual = cut_longest(list(range(a)), list(range(b)), room)
                assert actual == popped(range(a), range(b), room), (a, b, room)
    own = small(cut="longest", max_length=12)
    row = own.tokenize([("people " * 3, "the world " * 20)])["input_ids"]
    assert row.shape[1] == 12
    assert (
        small(cut="second", max_length=12, max_first=2)
        .tokenize([("x y z", "a")])["input_ids"]
        .shape[1]
        <= 12
    )


def test_a_long_text_beside_an_empty_one():
    own = small(cut="longest", max_length=12)
    ids = own.tokenize([("people " * 40, ""), ("", "people " * 40)])["input_ids"]
    assert ids.shape == (2, 12)


def test_a_random_model_pads_as_its_own_tokenizer(tmp_path):
    tokenizer = tiny_tokenizer(300)
    tokenizer.pad_token = "[MASK]"
    tokenizer.save_pretrained(tmp_path)
    own = small(tokenizer=str(tmp_path))
    assert own.tokenizer.pad_token_id != 0
    assert own.model.config.pad_token_id == own.tokenizer.pad_token_id
    assert own.encoder.get_input_embeddings().padding_idx == own.tokenizer.pad_token_id


def test_a_head_on_the_means_of_both_texts(tmp_path):
    own = small(num_labels=3, pooling="segments", hidden_dims=(8,), cut="longest").eval()
    pairs = [("people of the world", "more"), ("a", "b c d e")]
    inputs = own.tokenize(pairs)
    actual = own.score(pairs)
    assert actual.shape == (2, 3)
    with pytest.raises(UserError, match="pooling=classifier"):
        own.with_states(**inputs)
    with torch.no_grad():
        states = own.encoder(**inputs).last_hidden_state
        kind, real = inputs["token_type_ids"], inputs["attention_mask"]
        for i in range(2):
            u, v = (states[i][(kind[i] == k) & (real[i] == 1)].mean(0) for k in (0, 1))
            torch.testing.assert_close(own.pair_head(u, v), actual[i], atol=1e-5, rtol=1e-4)
    save_cross_encoder(own, tmp_path / "own")
    again = load_cross_encoder(tmp_path / "own")
    torch.testing.assert_close(again.score(pairs), actual)
    assert again.cut == "longest"
    encoder = AutoModel.from_pretrained(tmp_path / "own").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(**inputs).last_hidden_state, states, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("content", ['{"max_length": ', "[]"])
def test_a_damaged_description_is_said(tmp_path, content):
    (tmp_path / "cross_encoder.json").write_text(content)
    with pytest.raises(UserError, match=r"cross_encoder\.json is not a description"):
        load_cross_encoder(tmp_path)
