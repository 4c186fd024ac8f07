"""Hugging Face text towers with poolers; models are built in code."""

import pytest
import torch
from transformers import BertConfig, BertModel

from common.config import UserError
from common.encoders import TextTower, load_transformer, text_tower

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
IDS = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3]])
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
        "avg_first_last": ((hidden[0] + hidden[-1]) / 2 * weights).sum(1),
        "avg_top2": ((hidden[-2] + hidden[-1]) / 2 * weights).sum(1),
        "last_token": hidden[-1][torch.arange(2), MASK.sum(1) - 1],
    }
    for pooling, value in expected.items():
        tower = TextTower(bert, pooling).eval()
        torch.testing.assert_close(tower(IDS, MASK), value)
        torch.testing.assert_close(tower(IDS), value)  # mask from the padding id
    with pytest.raises(ValueError, match="pooling must be"):
        TextTower(bert, "max")


def test_cls_adds_a_trainable_tanh_head(bert):
    tower = TextTower(bert, "cls").eval()
    plain = TextTower(bert, "cls_before_pooler").eval()(IDS)
    dense = tower.cls_head[0]
    torch.testing.assert_close(tower(IDS), torch.tanh(dense(plain)))
    tower(IDS).sum().backward()
    assert [n for n, p in tower.named_parameters() if p.grad is None] == []


def test_more_padding_changes_nothing(bert):
    tower = TextTower(bert, "avg").eval()
    longer = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    torch.testing.assert_close(tower(longer), tower(IDS))


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
    with pytest.raises(UserError, match="model_type='bart_typo'"):
        text_tower("random", config={"model_type": "bart_typo"})


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
