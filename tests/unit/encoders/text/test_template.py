"""Prompt templates: every text inside, cut alone, pooled at the mask, kept by the export."""

import pytest
import torch

from common.config import UserError
from common.data.text.views import TextViews
from common.encoders.text.sentence import sentence_encoder
from common.encoders.text.template import add_template, plain_ids, special_tokens
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder

ARCHITECTURE = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.5,
    "max_position_embeddings": 64,
}
TEMPLATE = 'a text : "{text}" means [MASK] .'
TEXTS = ["the cat sleeps", "it rains"]
LONG = "two men work in the new world " * 9


def encoder(**options):
    torch.manual_seed(0)
    options = {"template": TEMPLATE, "pooling": "mask", **options}
    return sentence_encoder("random", config=ARCHITECTURE, **options).eval()


def test_a_corpus_is_tokenised_in_parts(monkeypatch):
    """All of it at once held several times its ids."""
    tokenizer = tiny_tokenizer(400)
    texts = [*TEXTS, "", LONG, "it rains"]
    whole = plain_ids(tokenizer, texts)
    assert whole == tokenizer(texts, add_special_tokens=False)["input_ids"]
    monkeypatch.setattr("common.encoders.text.template.ROWS", 2)
    assert plain_ids(tokenizer, texts) == plain_ids(tokenizer, tuple(texts)) == whole
    assert plain_ids(tokenizer, []) == []


def test_ids_are_those_of_the_template_with_the_text_in_it():
    tokenizer, plain = tiny_tokenizer(400), tiny_tokenizer(400)
    add_template(tokenizer, TEMPLATE)
    for text in TEXTS:
        written = TEMPLATE.replace("{text}", text)
        assert tokenizer(text)["input_ids"] == plain(written)["input_ids"]
        assert plain_ids(tokenizer, [text]) == plain_ids(plain, [text])
    before, after = special_tokens(tokenizer)
    assert before[0] == tokenizer.cls_token_id
    assert (after.count(tokenizer.mask_token_id), after[-1]) == (1, tokenizer.sep_token_id)
    once = tokenizer(TEXTS[0])["input_ids"]
    add_template(tokenizer, TEMPLATE)  # as after loading a tokenizer that was saved with it
    assert tokenizer(TEXTS[0])["input_ids"] == once


def test_cutting_shortens_the_text_alone():
    """In training batches and when encoding: the template stays whole, with one mask."""
    model = encoder(max_length=24)
    before, after = special_tokens(model.tokenizer)
    views = TextViews([(LONG,), ("it rains",)], model.tokenizer, max_length=24, views=2)
    batch = views[[(0, 0), (1, 0)]]
    for rows, mask in (
        (batch["input_ids"], batch["attention_mask"]),
        tuple(model.tokenize([LONG, "it rains"]).values()),
    ):
        for row, real in zip(rows, mask.bool(), strict=True):
            ids = row[real].tolist()
            assert ids[: len(before)] == before
            assert ids[-len(after) :] == after
            assert len(ids) <= 24
        assert rows.eq(model.tokenizer.mask_token_id).sum(1).tolist() == [1] * len(rows)
    assert torch.isfinite(model.train()(batch["input_ids"], batch["attention_mask"])).all()


def test_mask_pooling_takes_the_state_at_the_mask():
    model, plain = encoder(), encoder(pooling="cls_before_pooler", template=None)
    actual = model.encode(TEXTS)
    for row, text in zip(actual, TEXTS, strict=True):
        inputs = plain.tokenize([TEMPLATE.replace("{text}", text)])
        place = inputs["input_ids"][0].eq(plain.tokenizer.mask_token_id).nonzero().item()
        with torch.no_grad():
            states = plain.tower.model(**inputs).last_hidden_state[0]
        torch.testing.assert_close(row, states[place], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(row, states[0], atol=1e-2)


@pytest.mark.parametrize("pooling", ["mask", "avg"])
def test_export_keeps_the_template(tmp_path, pooling):
    """sentence-transformers has no module for it, so the folder is one of transformers."""
    model = encoder(pooling=pooling)
    again = load_sentence_encoder(save_sentence_encoder(model, tmp_path))
    assert not (tmp_path / "modules.json").exists()
    assert again.template == TEMPLATE
    assert (
        again.tokenize(TEXTS)["input_ids"].tolist() == model.tokenize(TEXTS)["input_ids"].tolist()
    )
    torch.testing.assert_close(again.encode(TEXTS), model.encode(TEXTS))
    plain = encoder(pooling="avg", template=None)
    save_sentence_encoder(plain, tmp_path / "plain")
    assert (tmp_path / "plain/modules.json").exists()
    again = load_sentence_encoder(tmp_path / "plain")
    torch.testing.assert_close(again.encode(TEXTS), plain.encode(TEXTS))


@pytest.mark.parametrize(
    "template", ["no place", "{text} {text} [MASK]", "{text}", "[MASK]{text}[MASK]"]
)
def test_templates_that_cannot_serve_are_refused(template):
    with pytest.raises(ValueError, match="the template needs"):
        encoder(template=template)
    tokenizer = tiny_tokenizer(400)
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="a mask token where it has"):
        add_template(tokenizer, TEMPLATE)


def test_a_template_has_to_leave_room_for_a_text():
    """Every text was cut to nothing, or none at all."""
    around = sum(map(len, special_tokens(encoder().tokenizer)))
    kept = encoder(max_length=around + 1).tokenize(TEXTS)["input_ids"]
    assert kept.shape[1] == around + 1
    assert not kept[0].equal(kept[1])
    for length in (around, around - 3):
        with pytest.raises(UserError, match=f"set max_length to {around + 1}"):
            encoder(max_length=length)
