"""SASRec against a slow copy, what a state sees, groups of lengths."""

import math

import pytest
import torch
from torch.nn import functional as F

from projects.mclrec.sasrec import SASRec

ITEMS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [5, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])


def encoder(**options):
    torch.manual_seed(0)
    return SASRec(10, dim=8, num_layers=2, ffn_dim=16, max_length=6, **options).eval()


def slow(model, items):
    """One row, one head and one position after the other, keys by name."""
    state = model.state_dict()
    linear = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["item_embedding.weight"][items] + state["position_embedding.weight"][: len(items)]
    x = norm(x, "LayerNorm")
    for number in range(2):
        base = f"trm_encoder.layer.{number}"
        attention = f"{base}.multi_head_attention"
        q, k, v = (linear(x, f"{attention}.{name}") for name in ("query", "key", "value"))
        mixed = torch.zeros_like(x)
        for head in (slice(0, 4), slice(4, 8)):
            for place in range(len(items)):
                keys = [j for j in range(place + 1) if items[j] > 0]
                weights = (k[keys][:, head] @ q[place, head] / math.sqrt(4)).softmax(0)
                mixed[place, head] = weights @ v[keys][:, head]
        x = norm(linear(mixed, f"{attention}.dense") + x, f"{attention}.LayerNorm")
        feed = f"{base}.feed_forward"
        inner = linear(F.gelu(linear(x, f"{feed}.dense_1")), f"{feed}.dense_2")
        x = norm(inner + x, f"{feed}.LayerNorm")
    return x


def test_states_equal_those_of_the_equations():
    model = encoder()
    with torch.no_grad():
        actual = model(ITEMS, LENGTHS)
        for row, length in zip(range(3), LENGTHS, strict=True):
            expected = slow(model, ITEMS[row, :length])
            torch.testing.assert_close(actual[row, :length], expected, rtol=1e-5, atol=1e-6)
        vectors = model.user_vectors(ITEMS, LENGTHS)
        torch.testing.assert_close(vectors, actual[torch.arange(3), LENGTHS - 1])
        torch.testing.assert_close(model.scores(vectors), vectors @ model.item_embedding.weight.T)


def test_a_state_sees_neither_later_items_nor_padding_nor_masked_ones():
    model = encoder()
    with torch.no_grad():
        whole = model(ITEMS, LENGTHS)
        later = ITEMS.clone()
        later[0, 3:] = 7
        assert torch.allclose(model(later, LENGTHS)[0, :3], whole[0, :3], atol=1e-6)
        wider = F.pad(ITEMS, (0, 1))
        assert torch.allclose(model(wider, LENGTHS)[1, :3], whole[1, :3], atol=1e-6)
        masked = ITEMS.clone()
        masked[0, 1] = 0
        before = model.user_vectors(masked, LENGTHS)[0]
        model.item_embedding.weight[0] += 3.0  # the vector of the masked place
        assert torch.allclose(model.user_vectors(masked, LENGTHS)[0], before, atol=1e-6)
        assert not torch.allclose(before, whole[0, 4], atol=1e-4)


@pytest.mark.parametrize(
    "name", ["dropout", "multi_head_attention.out_dropout", "feed_forward.dropout", "attention"]
)
def test_each_dropout_is_drawn_anew_while_training_and_off_after(name):
    """All others are switched off: two passes differ by the one that is left."""
    weights = name == "attention"  # of the attention weights, which has no module
    model = encoder(hidden_dropout=0.5, attention_dropout=0.5 * weights).train()
    kept = name if name == "dropout" else f"trm_encoder.layer.0.{name}"
    for place, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and place != kept:
            module.p = 0.0
    with torch.no_grad():
        first, other = model(ITEMS, LENGTHS), model(ITEMS, LENGTHS)
        assert not torch.allclose(first[0], other[0], atol=1e-3)
        model.eval()
        assert torch.equal(model(ITEMS, LENGTHS), model(ITEMS, LENGTHS))


def test_groups_of_lengths_change_nothing():
    plain, grouped = encoder(), encoder(length_groups=3)
    with torch.no_grad():
        for row, length in enumerate(LENGTHS):
            pair = (x(ITEMS, LENGTHS)[row, :length] for x in (plain, grouped))
            torch.testing.assert_close(*pair, rtol=0, atol=1e-6)
        pair = (x.user_vectors(ITEMS, LENGTHS) for x in (plain, grouped))
        torch.testing.assert_close(*pair, rtol=0, atol=1e-6)


def test_initial_weights_and_refused_sizes():
    model = SASRec(3000, dim=64)
    assert model.item_embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    layer = model.trm_encoder["layer"][0]
    assert layer.feed_forward.dense_1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.feed_forward.dense_1.bias.any()
    with pytest.raises(ValueError, match="do not divide"):
        SASRec(5, dim=9)
    with pytest.raises(ValueError, match="takes the last 6"):
        encoder()(torch.ones(1, 7, dtype=torch.long), torch.tensor([7]))
