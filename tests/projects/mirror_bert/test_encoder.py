"""What the encoder computes: poolers, padding, dropout, DropHead, no parameters of its own."""

import pytest
import torch
from torch import Tensor, nn

from common.config import UserError
from common.families.sentences.module import build_encoder
from projects.mirror_bert.drophead import DropHead
from tests.projects.mirror_bert.conftest import NO_NOISE, PADDED, batch, config, module_of

TEXTS = ["he is old", "she was the first of many who came to work"]


def test_checklist_1_no_new_parameters():
    """Checklist 1: the module's state is the backbone's, value for value."""
    cfg = config()
    module = module_of(cfg)
    backbone = build_encoder(cfg.model).tower.model
    prefix = "encoder.tower.model."
    assert list(module.state_dict()) == [prefix + name for name in backbone.state_dict()]
    assert not [name for name in module.state_dict() if "pooler" in name]
    with pytest.raises(UserError, match="adds no parameters"):
        config("model.pooling=cls")


def hidden(module, inputs) -> Tensor:
    return module.encoder.tower.model(**inputs).last_hidden_state


@pytest.mark.parametrize("pooling", ["avg_all", "avg", "cls_before_pooler"])
def test_checklist_4_poolers_on_padded_rows(pooling):
    """Checklist 4: `mean` averages the padding as well, `mean_std` and `cls` do not see it."""
    module = module_of(config(f"model.pooling={pooling}", "model.max_length=32")).eval()
    inputs = module.encoder.tokenize(TEXTS)
    states, mask = hidden(module, inputs), inputs["attention_mask"].unsqueeze(-1)
    expected = {
        "avg_all": states.mean(1),
        "avg": (states * mask).sum(1) / mask.sum(1),
        "cls_before_pooler": states[:, 0],
    }[pooling]
    torch.testing.assert_close(module.encoder(**inputs), expected)


def test_checklist_4_mean_uses_a_fixed_length_in_training_and_inference():
    """Checklist 4: rows are padded to data.max_length in training, to model.max_length after."""
    cfg = config(*PADDED, *NO_NOISE, "data.max_length=60")
    module = module_of(cfg)
    rows = batch(cfg, module)
    assert rows["input_ids"].shape[1] < 60
    padded = module.padded(rows)
    assert padded["input_ids"].shape == padded["attention_mask"].shape == (16, 60)
    assert padded["attention_mask"].sum() == rows["attention_mask"].sum()
    assert module.encoder.tokenize(TEXTS)["input_ids"].shape == (2, 32)
    z_1, z_2 = module.views(padded, 2)
    assert module.losses(rows)["loss"] == module.contrast(z_1, z_2).loss
    # an embedding does not depend on what else is in the batch
    together, alone = module.encoder.encode(TEXTS), module.encoder.encode(TEXTS[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-6)
    dynamic = module_of(config(*NO_NOISE, "model.pooling=avg"))
    assert dynamic.padded(rows) is rows
    with pytest.raises(UserError, match=r"set model\.max_length"):
        config("model.pooling=avg_all")


def test_checklist_5_max_length_at_inference_changes_mean_but_not_cls():
    """Checklist 5: documented behaviour of the padding-inclusive mean."""
    actual = {}
    for pooling in ("avg_all", "cls_before_pooler", "avg"):
        for length in (32, 48):
            cfg = config(f"model.pooling={pooling}", f"model.max_length={length}")
            actual[pooling, length] = module_of(cfg).encoder.encode(TEXTS)
    assert not torch.allclose(actual["avg_all", 32], actual["avg_all", 48], atol=1e-3)
    for pooling in ("cls_before_pooler", "avg"):
        torch.testing.assert_close(actual[pooling, 32], actual[pooling, 48])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_checklist_6_dropout_reaches_every_place(attention):
    """Checklist 6: embeddings, attention probabilities and both residual outputs of every layer."""
    cfg = config("model.dropout=0.3", "model.drop_head=0.0", f"model.attention={attention}")
    module = module_of(cfg)
    model = module.encoder.tower.model
    assert model.config._attn_implementation == attention
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}
    inputs = module.encoder.tokenize(TEXTS)
    places = {"embeddings": model.embeddings.dropout}
    for number, layer in enumerate(model.encoder.layer):
        places |= {
            f"{number} attention": layer.attention.self.dropout,
            f"{number} attention output": layer.attention.output.dropout,
            f"{number} FFN output": layer.output.dropout,
        }
    for name, place in places.items():  # each of them alone makes two passes differ
        for dropout in places.values():
            dropout.p = 0.0
        module.train()
        torch.testing.assert_close(hidden(module, inputs), hidden(module, inputs))
        place.p = 0.3
        assert not torch.allclose(hidden(module, inputs), hidden(module, inputs), atol=1e-3), name
        module.eval()
        torch.testing.assert_close(hidden(module, inputs), hidden(module, inputs))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_checklist_7_drop_head_acts_in_training_only(attention):
    """Checklist 7: with dropout off it alone separates two passes; in evaluation nothing does."""
    words = ("model.dropout=0.0", f"model.attention={attention}")
    module = module_of(config(*words, "model.drop_head=0.3")).train()
    without = module_of(config(*words, "model.drop_head=0.0")).train()
    inputs = module.encoder.tokenize(TEXTS)
    assert not torch.allclose(hidden(module, inputs), hidden(module, inputs), atol=1e-3)
    torch.testing.assert_close(hidden(without, inputs), hidden(without, inputs))
    torch.testing.assert_close(hidden(module.eval(), inputs), hidden(without.eval(), inputs))


def test_checklist_7_survivors_are_scaled_and_one_always_stays():
    """Checklist 7: H / survivors, expectation 1 for every head, never zero survivors."""
    torch.manual_seed(0)
    factors = DropHead(4, 0.9).factors(20_000)
    kept = factors.ne(0).sum(1)
    assert int(kept.min()) == 1
    torch.testing.assert_close(factors.amax(1), 4 / kept)
    torch.testing.assert_close(factors.mean(0), torch.ones(4), rtol=0.0, atol=0.05)


@pytest.mark.parametrize("noise", ["model.dropout", "model.drop_head"])
def test_checklist_11_the_two_views_have_masks_of_their_own(noise):
    """Checklist 11: equal strings, one doubled batch: the views differ by dropout or DropHead."""
    cfg = config(*NO_NOISE, "augment.span_chars=0", f"{noise}=0.2")
    module = module_of(cfg).train()
    rows = batch(cfg, module)
    view_1, view_2 = module.views(rows, 2)
    assert ((view_1 - view_2).abs().amax(1) > 1e-4).all()
    view_1, view_2 = module.eval().views(rows, 2)
    torch.testing.assert_close(view_1, view_2)


def test_random_init_keeps_architecture_and_tokenizer_and_draws_weights_anew(tmp_path):
    encoder = module_of(config()).encoder
    with torch.no_grad():
        encoder.tower.model.embeddings.word_embeddings.weight.fill_(1.0)
    encoder.tower.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    words = [f"model.pretrained={tmp_path}", "model.config=null", "model.dropout=0.2"]
    loaded = build_encoder(config(*words).model)
    drawn = build_encoder(config(*words, "model.random_init=true").model)
    weights = [e.tower.model.embeddings.word_embeddings.weight for e in (loaded, drawn)]
    assert (weights[0] == 1).all()
    assert 0.01 < float(weights[1].std()) < 0.03
    assert list(drawn.state_dict()) == list(loaded.state_dict())
    assert drawn.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert {m.p for m in drawn.modules() if isinstance(m, nn.Dropout)} == {0.2}
