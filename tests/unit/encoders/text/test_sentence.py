"""Sentence encoders: order, batching, modes, limits; the tokenizer without files."""

import pytest
import torch
from torch.nn import functional as F
from transformers import RobertaConfig, RobertaModel

from common.config import UserError
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import TextTower

CONFIG = {
    "model_type": "bert",
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}
TEXTS = [
    "A man is playing a guitar.",
    "No.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "iiiiiiiiiiiiii",  # fewer characters than some, more tokens
    "Two words",
    "No.",
]


@pytest.fixture
def encoder() -> SentenceEncoder:
    torch.manual_seed(0)
    return sentence_encoder("random", "avg", config=CONFIG)


def test_order_and_batch_size_do_not_change_embeddings(encoder):
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    for batch_size in (1, 2, 3, 64):
        actual = encoder.encode(TEXTS, batch_size=batch_size)
        assert actual.shape == (6, 32)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, alone)
    assert not torch.allclose(alone[0], alone[2], atol=1e-2)  # the order is observable
    assert encoder.encode("No.").shape == (1, 32)


def test_more_texts_than_a_window(encoder, monkeypatch):
    monkeypatch.setattr("common.encoders.text.sentence._WINDOW", 2)
    texts = [f"{'word ' * (i % 7)}number {i}" for i in range(23)]
    seen = []

    def progress(batches, description, total):
        seen.append(total)
        return batches

    actual = encoder.encode(texts, batch_size=3, progress=progress)
    torch.testing.assert_close(actual, torch.cat([encoder.encode([t]) for t in texts]))
    assert seen == [8]


def test_evaluation_mode_without_gradients_and_modes_come_back(encoder):
    encoder.train()
    encoder.tower.model.embeddings.eval()
    first, second = encoder.encode(TEXTS), encoder.encode(TEXTS)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert encoder.training
    assert encoder.tower.model.encoder.training
    assert not encoder.tower.model.embeddings.training
    inputs = encoder.tokenize(TEXTS)
    assert not torch.allclose(encoder(**inputs), encoder(**inputs), atol=1e-4)  # dropout acts
    assert encoder(**inputs).requires_grad


def test_train_only_head_is_left_out_of_encoding():
    """Checklist 5 of SimCSE: a key selects whether evaluation goes through the head."""
    torch.manual_seed(0)
    encoder = sentence_encoder("random", "cls", config=CONFIG, mlp_only_train=True)
    dense = encoder.tower.cls_head[0]
    raw = encoder.encode(TEXTS)
    encoder.tower.mlp_only_train = False
    torch.testing.assert_close(encoder.encode(TEXTS), torch.tanh(dense(raw)).detach())


def test_normalisation_and_similarity(encoder):
    raw, unit = encoder.encode(TEXTS), encoder.encode(TEXTS, normalize=True)
    torch.testing.assert_close(unit, F.normalize(raw, dim=1))
    always = SentenceEncoder(encoder.tower, encoder.tokenizer, normalize=True)
    torch.testing.assert_close(always.encode(TEXTS), unit)
    torch.testing.assert_close(always.encode(TEXTS, normalize=False), raw)
    expected = unit[:2] @ unit.T
    torch.testing.assert_close(encoder.similarity(TEXTS[:2], TEXTS), expected)
    torch.testing.assert_close(encoder.similarity(raw[:2], TEXTS), expected)
    assert encoder.similarity("No.", "No.").item() == pytest.approx(1.0)


def test_long_texts_are_cut_at_the_limit_of_the_model_only(encoder):
    """Checklist 8 of SimCSE: encoding does not truncate at the training length."""
    assert encoder.max_length == 48
    text = " ".join(f"{a} {b}" for a, b in zip("abcdefghij" * 4, "klmnopqrst" * 4, strict=True))
    kept = encoder.tokenize([text])["input_ids"]
    assert kept.shape == (1, 48)
    assert kept[0, -1] == encoder.tokenizer.sep_token_id
    changed = text[:70] + " z" * 10
    assert not torch.allclose(encoder.encode([text]), encoder.encode([changed]), atol=1e-4)
    short = SentenceEncoder(encoder.tower, encoder.tokenizer, max_length=8)
    assert short.tokenize([text])["input_ids"].shape == (1, 8)
    with pytest.raises(UserError, match="reads at most 48"):
        SentenceEncoder(encoder.tower, encoder.tokenizer, max_length=49)


def test_roberta_positions_start_behind_the_padding_id():
    sizes = {k: v for k, v in CONFIG.items() if k != "model_type"}
    model = RobertaModel(RobertaConfig(**sizes, pad_token_id=0))
    encoder = SentenceEncoder(TextTower(model, "avg"), tiny_tokenizer())
    assert encoder.max_length == 47
    assert encoder.encode(["a " * 100]).isfinite().all()


def test_left_padding_gives_the_same_embedding(encoder):
    right = encoder.tokenize(TEXTS[:2])
    encoder.tokenizer.padding_side = "left"
    left = encoder.tokenize(TEXTS[:2])
    assert left["attention_mask"][1, 0] == 0
    assert right["attention_mask"][1, 0] == 1
    assert torch.equal(
        left["input_ids"][left["attention_mask"].bool()],
        right["input_ids"][right["attention_mask"].bool()],
    )


def test_mask_pooling_reads_the_state_at_the_mask_token():
    encoder = sentence_encoder("random", "mask", config=CONFIG).eval()
    texts = ['"a cat" means [MASK].', '"a longer sentence" means [MASK].']
    inputs = encoder.tokenize(texts)
    states = encoder.tower.model(**inputs).last_hidden_state
    position = inputs["input_ids"].eq(encoder.tokenizer.mask_token_id).int().argmax(1)
    torch.testing.assert_close(encoder.encode(texts), states[torch.arange(2), position].detach())
    with pytest.raises(ValueError, match="exactly one mask token"):
        encoder.encode(["no mask here"])


def test_errors(encoder):
    for call in (encoder.encode, encoder.tokenize):
        with pytest.raises(ValueError, match="no"):
            call([])
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(UserError, match="no padding token"):
        SentenceEncoder(encoder.tower, tokenizer)


def test_tiny_tokenizer_writes_and_reads_ascii():
    tokenizer = tiny_tokenizer(256)
    assert len(tokenizer) == 256
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [
        0,
        1,
        2,
        3,
        4,
    ]
    ids = tokenizer("The naïve fox, 42!")["input_ids"]
    assert ids[0] == 2
    assert ids[-1] == 3
    assert 1 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the naive fox, 42!"
    assert tokenizer("日本")["input_ids"] == [2, 1, 1, 3]
    assert tokenizer("the [MASK]")["input_ids"] == [
        2,
        *tokenizer.convert_tokens_to_ids(["the"]),
        4,
        3,
    ]
    assert tiny_tokenizer(256).get_vocab() == tokenizer.get_vocab()
    assert 1000 < len(tiny_tokenizer(8192)) < 8192
    with pytest.raises(UserError, match="vocab_size >="):
        tiny_tokenizer(50)


@pytest.mark.parametrize("groups", [2, 4, 50])
@pytest.mark.parametrize("pooling", ["avg", "cls", "last_token", "avg_first_last"])
def test_groups_by_length_give_the_embeddings_and_gradients_of_one_pass(pooling, groups):
    """In the order of the batch, with less arithmetic on padding; without dropout, in float64."""
    actual = []
    for count in (1, groups):
        torch.manual_seed(0)
        encoder = sentence_encoder(
            "random", pooling, config=CONFIG, dropout=0.0, length_groups=count
        ).double()
        cells = []
        encoder.tower.model.register_forward_pre_hook(
            lambda module, args, kwargs, cells=cells: cells.append(kwargs["input_ids"].numel()),
            with_kwargs=True,
        )
        z = encoder.train()(**encoder.tokenize(TEXTS))
        (z * torch.arange(1.0, 7.0)[:, None]).sin().sum().backward()
        grads = {k: p.grad for k, p in encoder.named_parameters() if p.grad is not None}
        actual.append((z, grads, cells))
    (z, grads, cells), (z_groups, grads_groups, cells_groups) = actual
    torch.testing.assert_close(z_groups, z)
    assert not torch.allclose(z_groups.flip(0), z, atol=1e-3)  # the order is observable
    assert grads_groups.keys() == grads.keys()
    for name, value in grads.items():
        torch.testing.assert_close(grads_groups[name], value, msg=name)
    assert len(cells_groups) == min(groups, 6)
    assert sum(cells_groups) < sum(cells)


def test_groups_are_the_default_on_a_cpu_for_batches_that_are_large_enough():
    """Embeddings are those of one pass, in the order of the batch."""
    encoder = sentence_encoder("random", "avg", config=CONFIG, dropout=0.0, length_groups=None)
    batch = encoder.train().tokenize([text for text in TEXTS for _ in range(11)])
    passes = []
    encoder.tower.register_forward_pre_hook(lambda *_: passes.append(1))
    z = encoder(**batch)
    assert len(passes) == 4  # of 66 rows
    torch.testing.assert_close(z, encoder.tower(**batch), rtol=1e-5, atol=1e-6)
    passes.clear()
    encoder(**{name: rows[:31] for name, rows in batch.items()})
    assert len(passes) == 1
    whole = sentence_encoder("random", "avg_all", config=CONFIG, length_groups=None, max_length=8)
    assert whole.length_groups is None
    whole.tower.register_forward_pre_hook(lambda *_: passes.append(1))
    whole.train()(**whole.tokenize([text for text in TEXTS for _ in range(11)]))
    assert len(passes) == 2  # padding counts in its mean: one pass


def test_groups_act_in_training_alone_and_not_where_padding_counts():
    encoder = sentence_encoder("random", "avg", config=CONFIG, length_groups=3).eval()
    passes = []
    encoder.tower.register_forward_pre_hook(lambda *_: passes.append(1))
    encoder(**encoder.tokenize(TEXTS))
    assert len(passes) == 1
    encoder.train()(**encoder.tokenize(TEXTS))
    assert len(passes) == 4
    for bad in ({"length_groups": 0}, {"length_groups": 2, "pooling": "avg_all"}):
        options = {"pooling": "avg", "config": CONFIG, **bad}
        with pytest.raises(ValueError, match="length_groups must be >= 1"):
            sentence_encoder("random", **options)


def test_vectors_are_written_once(encoder, monkeypatch):
    """The rows of a batch go to their places at once: there is no second copy of all vectors, which
    of some collections take 60 GB."""
    whole, plain, norm = [], torch.cat, torch.nn.functional.normalize

    def seen(made):
        whole.extend([len(made)] if len(made) == 20 else [])
        return made

    monkeypatch.setattr(torch, "cat", lambda *args, **words: seen(plain(*args, **words)))
    monkeypatch.setattr(
        "common.encoders.text.sentence.F.normalize",
        lambda *args, **words: seen(norm(*args, **words)),
    )
    vectors = encoder.encode([f"number {i}" for i in range(20)], batch_size=3, normalize=True)
    assert whole == []
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(20))
