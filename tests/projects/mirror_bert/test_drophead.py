"""DropHead acts on whole heads, under every attention implementation, and only in training."""

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from common.config import UserError
from projects.mirror_bert.drophead import DropHead, add_drop_head

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
DISTIL = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 32}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3], [2, 5, 6, 9, 3, 0]])
MASK = IDS.ne(0).long()


def model(kind: str = "bert", attention: str = "sdpa", **sizes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(sizes or {**SIZES, **OFF}))
    return AutoModel.from_config(config, attn_implementation=attention)


def states(net: PreTrainedModel, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return net(input_ids=IDS, attention_mask=MASK).last_hidden_state


def test_survivors_share_the_scale_and_one_always_survives():
    torch.manual_seed(0)
    for drop_prob in (0.2, 0.9, 0.999):
        factors = DropHead(4, drop_prob).factors(2000)
        kept = factors.ne(0).sum(1, keepdim=True)
        assert int(kept.min()) >= 1
        torch.testing.assert_close(factors, factors.ne(0) * 4.0 / kept)
    assert torch.equal(DropHead(4, 0.0).factors(5), torch.ones(5, 4))
    assert float(DropHead(4, 0.2).factors(4000).eq(0).float().mean()) == pytest.approx(
        0.2, abs=0.02
    )


@pytest.mark.parametrize("drop_prob", [0.2, 0.8])
def test_expectation_of_every_head_is_kept(drop_prob):
    torch.manual_seed(1)
    factors = DropHead(4, drop_prob).factors(40_000)
    torch.testing.assert_close(factors.mean(0), torch.ones(4), rtol=0.0, atol=0.04)
    assert (factors.sum(1) - 4).abs().max() < 1e-5  # exactly so for the heads together


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hook_equals_heads_scaled_by_hand(attention):
    """One layer: context of each head times its factor, then the output projection."""
    net = model(attention=attention).train()
    block = net.encoder.layer[0].attention
    seen = {}
    block.output.dense.register_forward_pre_hook(lambda _, x: seen.update(raw=x[0]))
    plain = states(net)
    raw = seen["raw"]
    add_drop_head(net, 0.5)
    block.output.dense.register_forward_pre_hook(lambda _, x: seen.update(dropped=x[0]))
    dropped = states(net)
    torch.manual_seed(0)
    factors = DropHead(4, 0.5).factors(3)
    by_hand = raw.reshape(3, 6, 4, 8) * factors[:, None, :, None]
    torch.testing.assert_close(seen["dropped"], by_hand.reshape(3, 6, 32))
    assert factors.eq(0).any()
    assert not torch.allclose(plain, dropped)


def test_eager_and_sdpa_agree_and_other_draws_do_not():
    actual = {}
    for attention in ("eager", "sdpa"):
        net = model(attention=attention).train()
        add_drop_head(net, 0.3)
        actual[attention] = states(net)
    torch.testing.assert_close(actual["eager"], actual["sdpa"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(actual["sdpa"], states(net, seed=1), atol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_off_in_evaluation_and_no_new_parameters(attention):
    net, plain = model(attention=attention).eval(), model(attention=attention).eval()
    names = add_drop_head(net, 0.5)
    assert len(names) == 2
    assert torch.equal(states(net), states(plain))
    assert list(net.state_dict()) == list(plain.state_dict())


def test_gradient_skips_dropped_heads():
    net = model(**{**SIZES, **OFF, "num_hidden_layers": 1}).train()
    add_drop_head(net, 0.5)
    torch.manual_seed(3)
    factors = DropHead(4, 0.5).factors(1)
    torch.manual_seed(3)
    net(input_ids=IDS[1:2]).last_hidden_state[..., 0].sum().backward()
    value = net.encoder.layer[0].attention.self.value.weight.grad.reshape(4, 8, 32)
    dead = factors[0].eq(0)
    assert dead.any()
    assert torch.equal(value.abs().sum((1, 2)) == 0, dead)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("roberta", {**SIZES, **OFF, "max_position_embeddings": 20}),
        ("distilbert", {**DISTIL, "dropout": 0.0, "attention_dropout": 0.0}),
        ("llama", {**SIZES, "num_key_value_heads": 2}),
    ],
)
def test_other_architectures(kind, sizes):
    net = model(kind, **sizes).train()
    plain = states(net)
    assert len(add_drop_head(net, 0.5)) == 2
    assert not torch.allclose(plain, states(net), atol=1e-3)
    assert torch.equal(states(net.eval()), states(net, seed=1))


def test_autocast_keeps_its_dtype():
    net = model().train()
    add_drop_head(net, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        out = states(net)
    assert torch.isfinite(out).all()


def test_errors():
    with pytest.raises(UserError, match="DropHead does not know the attention of gpt2"):
        add_drop_head(model("gpt2", vocab_size=60, n_embd=16, n_layer=1, n_head=2), 0.1)
    with pytest.raises(ValueError, match=r"drop_prob in \[0, 1\)"):
        DropHead(4, 1.0)
