"""Hugging Face text towers with poolers; models are built in code."""

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel

from common.config import UserError
from common.encoders.text.pooling import POOLINGS
from common.encoders.text.tower import TextTower, architecture, load_transformer, text_tower

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
MASK_ID = 4
IDS = torch.tensor([[2, 4, 8, 3, 0, 0], [2, 9, 10, 4, 12, 3]])
MASK = IDS.ne(0).long()


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval()


def test_poolers_match_the_hidden_states(bert):
    hidden = bert(IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    weights = (MASK / MASK.sum(1, keepdim=True)).unsqueeze(-1)
    expected = {
        "cls_before_pooler": hidden[-1][:, 0],
        "avg": (hidden[-1] * weights).sum(1),
        "avg_all": hidden[-1].mean(1),
        "avg_first_last": ((hidden[1] + hidden[-1]) / 2 * weights).sum(1),
        "avg_embedding_last": ((hidden[0] + hidden[-1]) / 2 * weights).sum(1),
        "mask": hidden[-1][torch.arange(2), torch.tensor([1, 3])],
        "avg_top2": ((hidden[-2] + hidden[-1]) / 2 * weights).sum(1),
        "last_token": hidden[-1][torch.arange(2), MASK.sum(1) - 1],
        "max": hidden[-1].masked_fill(MASK[..., None] == 0, -1e9).amax(1),
    }
    assert set(expected) == set(POOLINGS) - {"cls"}
    for pooling, value in expected.items():
        tower = TextTower(bert, pooling, mask_token_id=MASK_ID).eval()
        torch.testing.assert_close(tower(IDS, MASK), value)
        torch.testing.assert_close(tower(IDS), value)  # mask from the padding id
    with pytest.raises(ValueError, match="pooling must be"):
        TextTower(bert, "min")


def test_cls_adds_a_trainable_tanh_head(bert):
    tower = TextTower(bert, "cls").eval()
    plain = TextTower(bert, "cls_before_pooler").eval()(IDS)
    dense = tower.cls_head[0]
    torch.testing.assert_close(tower(IDS), torch.tanh(dense(plain)))
    tower(IDS).sum().backward()
    assert [n for n, p in tower.named_parameters() if p.grad is None] == []


def test_train_only_head_and_its_initial_weights():
    """Checklist 5 and 12 of SimCSE: the switch, and a fresh head with N(0, 0.02) and no bias."""
    torch.manual_seed(0)
    config = {"model_type": "bert", **SIZES, "hidden_size": 64}
    tower = text_tower("random", "cls", config=config, dropout=0.0, mlp_only_train=True)
    dense = tower.cls_head[0]
    assert dense.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not dense.bias.any()
    trained, raw = tower.train()(IDS), tower.eval()(IDS)
    torch.testing.assert_close(trained, torch.tanh(dense(raw)))
    always = TextTower(tower.model, "cls").eval()
    always.cls_head = tower.cls_head
    torch.testing.assert_close(always(IDS), trained)
    with pytest.raises(ValueError, match="has no head"):
        TextTower(tower.model, "avg", mlp_only_train=True)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_only(attention, kind):
    """Both kinds of dropout act under both kinds of attention, with other masks per pass and
    row."""
    config = {"model_type": "bert", **SIZES, "hidden_dropout_prob": 0.0}
    config |= {"attention_probs_dropout_prob": 0.0, kind: 0.3}
    tower = text_tower("random", "avg", config=config, attention=attention)
    assert tower.model.config._attn_implementation == attention
    twice = IDS[:1].repeat(2, 1)
    first, second = tower.train()(twice), tower(twice)
    assert not torch.allclose(first[0], first[1], atol=1e-4)  # rows
    assert not torch.allclose(first, second, atol=1e-4)  # passes
    assert torch.equal(tower.eval()(twice), tower(twice))
    torch.testing.assert_close(*tower(twice))
    config[kind] = 0.0  # the twin: without dropout, training is as deterministic as evaluation
    still = text_tower("random", "avg", config=config, attention=attention).train()
    assert torch.equal(still(twice), still(twice))
    torch.testing.assert_close(*still(twice))


def test_dropout_override_switches_all_dropout_off_and_on(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    off = text_tower(str(tmp_path), dropout=0.0).train()
    assert torch.equal(off(IDS), off(IDS))
    on = text_tower(str(tmp_path), dropout=0.2).train()
    assert not torch.allclose(on(IDS), on(IDS), atol=1e-4)
    torch.testing.assert_close(on.eval()(IDS), off.eval()(IDS))


@pytest.mark.parametrize(
    "architecture",
    [
        {
            "model_type": "distilbert",
            "dim": 16,
            "n_heads": 2,
            "n_layers": 1,
            "hidden_dim": 32,
            "vocab_size": 60,
        },
        {"model_type": "gpt_neox", "classifier_dropout": 0.1, **SIZES},
        {"model_type": "albert", "classifier_dropout_prob": 0.1, **SIZES},
        {"model_type": "electra", "summary_last_dropout": 0.1, **SIZES},
    ],
)
def test_dropout_override_reaches_what_a_task_adds(architecture):
    """The negative twin: without an override their own probabilities stay."""

    def rates(dropout):
        model = load_transformer(
            "random",
            config=architecture,
            dropout=dropout,
            auto_class=AutoModelForSequenceClassification,
        )
        return {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}, model.config

    assert rates(0.35)[0] == {0.35}
    assert rates(None)[0] != {0.35}
    if architecture["model_type"] == "electra":
        assert rates(0.35)[1].summary_last_dropout == 0.35


def test_dropout_override_leaves_whole_layers_alone():
    config = {
        "model_type": "bart",
        "d_model": 16,
        "encoder_layerdrop": 0.1,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    actual = load_transformer("random", config=config, dropout=0.35).config
    assert (actual.dropout, actual.activation_dropout) == (0.35, 0.35)
    assert actual.encoder_layerdrop == 0.1


def test_loading_reports_nothing(bert, tmp_path, caplog):
    """The library would report the absent pooler, which no tower uses."""
    TextTower(bert, "avg").model.save_pretrained(tmp_path)
    text_tower(str(tmp_path))
    assert caplog.text == ""
    AutoModel.from_pretrained(tmp_path)  # the twin: others still hear of it
    assert "pooler" in caplog.text


def test_eager_and_sdpa_agree(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    eager, sdpa = (text_tower(str(tmp_path), attention=a).eval()(IDS) for a in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa)
    with pytest.raises(UserError, match="attention must be one of"):
        text_tower(str(tmp_path), attention="flash")


def test_mask_pooling_needs_one_mask_token_per_text(bert):
    with pytest.raises(ValueError, match="mask_token_id"):
        TextTower(bert, "mask")
    tower = TextTower(bert, "mask", mask_token_id=MASK_ID).eval()
    for row in ([2, 7, 8, 3, 0, 0], [2, 4, 4, 3, 0, 0]):
        with pytest.raises(ValueError, match="exactly one mask token"):
            tower(torch.tensor([row, IDS[1].tolist()]))


def test_more_padding_changes_nothing(bert):
    tower = TextTower(bert, "avg").eval()
    longer = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(tower(longer), tower(IDS))
    inclusive = TextTower(bert, "avg_all").eval()
    assert not torch.allclose(inclusive(longer)[1], inclusive(IDS)[1], atol=1e-3)


def test_reload_from_a_folder_is_exact_and_in_float32(bert, tmp_path):
    bert.half().save_pretrained(tmp_path)
    tower = text_tower(str(tmp_path), "avg").eval()
    assert next(tower.parameters()).dtype == torch.float32
    torch.testing.assert_close(tower(IDS), TextTower(bert.float(), "avg")(IDS))


def test_random_needs_a_config_and_dropout_is_set():
    tower = text_tower("random", config={"model_type": "bert", **SIZES}, dropout=0.25)
    rates = {m.p for m in tower.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    with pytest.raises(UserError, match="random and a `config`"):
        text_tower("random")


@pytest.mark.parametrize(
    ("config", "said"),
    [({"model_type": "bart_typo"}, r"='bart_typo': .* try bart"), (SIZES, r"=None: .* try bert")],
)
def test_an_unknown_kind_of_model_is_answered_with_a_near_one(config, said):
    with pytest.raises(UserError, match=said) as raised:
        text_tower("random", config=config)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (
            {"model_type": "bert", "hiden_size": 32},
            "'hiden_size' is unknown; did you mean hidden_size",
        ),
        (
            {"model_type": "bert", "dropout": 0.1},
            "'dropout' is unknown; did you mean .*hidden_dropout",
        ),
        (
            {"model_type": "llama", "n_layer": 2},
            "'n_layer' is unknown; did you mean .*num_hidden_layers",
        ),
        ({"model_type": "gpt2", "strange": 2}, "'strange' is unknown"),
    ],
)
def test_fields_that_nothing_reads_are_refused(config, hint):
    """A misspelt size left the default, and said nothing."""
    with pytest.raises(UserError, match=hint):
        architecture(config)
    with pytest.raises(UserError, match="hidden_size"):
        architecture({"model_type": "bert", "hidden_size": "many"})


def test_fields_that_are_read_under_whatever_name_are_taken():
    assert architecture({"model_type": "gpt2", "n_embd": 24}).hidden_size == 24
    assert (
        architecture({"model_type": "llama", "rope_theta": 3.0}).rope_parameters["rope_theta"] == 3
    )
    assert architecture({"model_type": "deberta-v2", "share_att_key": True}).share_att_key
    architecture({"model_type": "t5", "tie_word_embeddings": False})
    assert (
        architecture({"model_type": "t5", "decoder_start_token_id": 5}).decoder_start_token_id == 5
    )
    taken_back = architecture({"model_type": "gpt2", "n_embd": 24, "d_model": None})
    assert (taken_back.n_embd, hasattr(taken_back, "d_model")) == (24, False)
    pair = {"encoder": {"model_type": "bert"}, "decoder": {"model_type": "bert"}}
    assert architecture({"model_type": "encoder-decoder", **pair}).decoder.model_type == "bert"
    stored = {"model_type": "bert", "hidden_size": 24, "left_by_its_authors": 1}
    assert architecture({**stored, "transformers_version": "4.0.0"}).hidden_size == 24


def test_weights_that_do_not_fill_the_model_are_refused(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
    )
    with pytest.raises(UserError, match="would start at random"):
        load_transformer(str(tmp_path))


def test_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        text_tower(str(tmp_path))
    (tmp_path / "config.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="cannot take"):
        text_tower(str(tmp_path / "config.safetensors"))
