"""Towers that pool several layers: sizes, dropout and map on top, own weights."""

from types import SimpleNamespace

import pytest
import torch

from common.config import UserError
from projects.dse.layer_pooling import LAYER_KINDS, layer_encoder, pool_layers

SMALL = {
    "model_type": "bert",
    "vocab_size": 200,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 48,
}
TEXTS = ["a man", "the people of the world and more", "it"]
SIZES = {"concat_top_mean": 32, "concat_top_max": 32, "bilstm": 32}


def encoder(kind="concat_top_mean", **options):
    torch.manual_seed(0)
    return layer_encoder("random", config=SMALL, kind=kind, top_layers=2, **options)


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_sizes_padding_and_gradients(kind):
    """A text's vector does not depend on its neighbours; everything on the transformer is
    trained."""
    own = encoder(kind).eval()
    together = own.encode(TEXTS)
    assert together.shape == (3, SIZES.get(kind, 16))
    assert own.num_features == together.shape[1]
    alone = torch.cat([own.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    own.train()(**own.tokenize(TEXTS)).square().sum().backward()
    assert all(
        p.grad is not None for name, p in own.tower.named_parameters() if "model." not in name
    )


@pytest.mark.parametrize("kind", ["cls", "bilstm"])
def test_padding_on_the_left_changes_nothing(kind):
    own = encoder(kind).eval()
    expected = own.encode(TEXTS)
    inputs = own.tokenize(TEXTS)
    states = own.tower.model(**inputs).last_hidden_state
    left, moved = torch.zeros_like(inputs["attention_mask"]), torch.zeros_like(states)
    for i, count in enumerate(inputs["attention_mask"].sum(1).tolist()):
        left[i, -count:], moved[i, -count:] = 1, states[i, :count]
    own.tower.model.forward = lambda **_: SimpleNamespace(last_hidden_state=moved)
    with torch.no_grad():
        actual = own.tower(inputs["input_ids"], left)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_dropout_then_the_map():
    own = encoder(pool_dropout=0.5, projection_dim=5)
    inputs = own.tokenize(TEXTS)
    own.train()
    own.tower.model.eval()
    pooled = own.tower._pooled(inputs["input_ids"], inputs["attention_mask"], {})
    torch.manual_seed(3)
    want = own.tower.projection(torch.nn.functional.dropout(pooled, 0.5))
    torch.manual_seed(3)
    torch.testing.assert_close(own(**inputs), want)
    assert set(own.tower.own_state()) == {"projection.weight", "projection.bias"}
    assert own.tower.settings["projection_dim"] == own.num_features == 5


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="has 3 layers"):
        layer_encoder("random", config=SMALL, top_layers=4)
    distil = {"model_type": "distilbert", "dim": 16, "n_heads": 2, "n_layers": 1, "vocab_size": 200}
    with pytest.raises(UserError, match="no pooler"):
        layer_encoder("random", config=distil, kind="cls")
    states, mask = [torch.zeros(1, 2, 3)], torch.ones(1, 2)
    for options in ({"kind": "cls"}, {"top_layers": 2}, {"kind": "mean_top_max", "sqrt_len": True}):
        with pytest.raises(ValueError, match=r"layers|pooled|sqrt_len"):
            pool_layers(states, mask, **{"top_layers": 1, **options})
