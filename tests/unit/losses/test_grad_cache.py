"""The gradient cache equals one large forward pass, at the memory of one chunk."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.losses import grad_cache
from common.losses.grad_cache import cached_encode, split_rows
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.temperature import LogitScale
from common.losses.two_view import NTXentLoss

Parameters = dict[str, Tensor]


class Tower(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 4, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def towers(dropout: float = 0.0) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"x": Tower(dropout), "y": Tower(dropout), "scale": LogitScale()}).double()


def batch(rows: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, rows, 6, dtype=torch.float64, generator=generator))


def gradients(model: nn.Module, loss: Tensor) -> Parameters:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def plain_chunks(tower: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """The un-cached pass that draws its dropout masks in the same order."""
    return torch.cat([tower(part) for part in x.split(chunk)])


def assert_same(found: Parameters, wanted: Parameters) -> None:
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 3, 10, 99])
@pytest.mark.parametrize("loss", [ClipLoss(), NTXentLoss(), SigLipLoss()])
def test_equals_one_large_pass(loss, chunk):
    model, (x, y) = towers(), batch()
    scale = model["scale"]
    expected = loss(model["x"](x), model["y"](y), scale())
    actual = loss(cached_encode(model["x"], x, chunk), cached_encode(model["y"], y, chunk), scale())
    torch.testing.assert_close(actual.loss, expected.loss)
    assert_same(gradients(model, actual.loss), gradients(model, expected.loss))


@pytest.mark.parametrize("chunk", [3, 5])
def test_dropout_masks_are_those_of_the_first_pass(chunk):
    model, (x, y) = towers(dropout=0.5), batch()
    loss, scale = ClipLoss(), model["scale"]
    torch.manual_seed(7)
    plain = loss(plain_chunks(model["x"], x, chunk), plain_chunks(model["y"], y, chunk), scale())
    expected = gradients(model, plain.loss)
    torch.manual_seed(7)
    cached = loss(cached_encode(model["x"], x, chunk), cached_encode(model["y"], y, chunk), scale())
    after_forward = torch.get_rng_state()
    assert_same(gradients(model, cached.loss), expected)
    assert torch.equal(torch.get_rng_state(), after_forward)  # backward drew nothing


def test_without_restoring_the_random_state_the_gradient_is_another(monkeypatch):
    """Negative twin of the test above."""
    checkpoint = grad_cache.checkpoint

    def careless(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(*args, **(kwargs | {"preserve_rng_state": False}))

    model, (x, y) = towers(dropout=0.5), batch()
    loss, scale = ClipLoss(), model["scale"]
    torch.manual_seed(7)
    plain = loss(plain_chunks(model["x"], x, 3), plain_chunks(model["y"], y, 3), scale())
    expected = gradients(model, plain.loss)
    monkeypatch.setattr(grad_cache, "checkpoint", careless)
    torch.manual_seed(7)
    actual = loss(cached_encode(model["x"], x, 3), cached_encode(model["y"], y, 3), scale())
    torch.testing.assert_close(actual.loss, plain.loss)
    with pytest.raises(AssertionError):
        assert_same(gradients(model, actual.loss), expected)


def test_only_one_chunk_is_alive_during_backward():
    alive, peaks = [0], []

    class Count(torch.autograd.Function):
        """Holds a saved tensor between forward and backward and counts how many are held."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            alive[0] += 1
            peaks.append(alive[0])
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            alive[0] -= 1
            return grad

    model, (x, _) = towers(), batch()
    z = cached_encode(lambda part: model["x"](Count.apply(part.requires_grad_())), x, 2)
    alive[0] = 0
    peaks.clear()
    NTXentLoss()(z, z.flip(0), 5.0).loss.backward()
    assert len(peaks) == 5
    assert max(peaks) == 1


def test_nested_batches_and_outputs():
    x, y = batch()
    tokens = {"ids": x, "mask": [y], "flag": True}

    def encode(part: dict[str, Any]) -> dict[str, Tensor]:
        assert part["flag"] is True
        return {"z": 2 * part["ids"] + part["mask"][0], "ids": part["ids"]}

    out = cached_encode(encode, tokens, 4)
    assert torch.equal(out["z"], 2 * x + y)
    assert torch.equal(out["ids"], x)


def test_without_gradients_nothing_is_recorded():
    model, (x, _) = towers(), batch()
    with torch.no_grad():
        assert not cached_encode(model["x"], x, 3).requires_grad


def test_a_gradient_scaler_sees_the_gradients_of_the_large_pass():
    actual = {}
    for cached in (True, False):
        model, (x, y) = towers(), batch()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        encode = (lambda tower, z: cached_encode(tower, z, 3)) if cached else (lambda t, z: t(z))
        loss = ClipLoss()(encode(model["x"], x), encode(model["y"], y), model["scale"]()).loss
        scaler.scale(loss).backward()
        scaled = {name: p.grad.clone() for name, p in model.named_parameters()}
        scaler.step(optimizer)
        scaler.update()
        actual[cached] = scaled, {name: p.detach() for name, p in model.named_parameters()}
    for one, other in zip(actual[True], actual[False], strict=True):
        assert_same(one, other)


def test_a_gradient_scaler_skips_the_step_when_a_cached_gradient_overflows():
    for init_scale, moves in ((2.0**10, True), (2.0**127, False)):
        model, (x, y) = towers().float(), (z.float() for z in batch())
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rows = cached_encode(model["x"], x, 3), cached_encode(model["y"], y, 3)
        scaler.scale(1e3 * ClipLoss()(*rows, model["scale"]()).loss).backward()
        scaler.step(optimizer)
        changed = any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert changed == moves


def test_autocast_is_entered_again_in_the_second_pass():
    model, (x, _) = towers().float(), batch()
    x, seen = x.float(), []

    def encode(part: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return model["x"](part)

    with torch.autocast("cpu", torch.bfloat16):
        z = cached_encode(encode, x, 5)
        loss = NTXentLoss()(z, z.flip(0), 5.0).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert seen == [True] * 4  # two chunks, twice


@pytest.mark.parametrize(
    ("argument", "chunk", "message"),
    [
        (torch.zeros(3, 2), 0, "chunk_size must be >= 1, got 0"),
        ({"a": torch.zeros(3), "b": torch.zeros(4)}, 2, r"found \[3, 4\]"),
        (["text"], 2, "found no tensor"),
    ],
)
def test_errors(argument, chunk, message):
    with pytest.raises(ValueError, match=message):
        split_rows(argument, chunk)


def run_ddp(cached: bool) -> Parameters:
    from torch.nn.parallel import DistributedDataParallel

    from common.distributed.process import rank

    class Model(nn.Module):
        """Loss inside the wrapped module, as in a training step."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = towers()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            encode = (lambda m, part: cached_encode(m, part, 2)) if cached else (lambda m, p: m(p))
            z = [encode(self.parts[name], part) for name, part in (("x", x), ("y", y))]
            return ClipLoss()(*z, self.parts["scale"]()).loss

    model = DistributedDataParallel(Model())
    x, y = batch()
    rows = slice(5 * rank(), 5 * rank() + 5)
    return {k.split("parts.")[1]: g for k, g in gradients(model, model(x[rows], y[rows])).items()}


def test_ddp_reduces_the_cached_gradient_once(two_ranks):
    model, (x, y) = towers(), batch()
    loss = ClipLoss()(model["x"](x), model["y"](y), model["scale"]()).loss
    expected = gradients(model, loss)
    for actual in two_ranks.run(run_ddp, cached=True):
        assert_same(actual, expected)


def test_a_tensor_without_dimensions_is_handed_on_and_no_rows_are_one_chunk():
    layer, x = nn.Linear(6, 4).double(), batch()[0]
    parts = {"x": x, "scale": torch.tensor(2.0)}
    actual = cached_encode(lambda b: layer(b["x"]) * b["scale"], parts, 3)
    torch.testing.assert_close(actual, 2 * layer(x))
    empty = cached_encode(layer, x[:0], 3)
    assert empty.shape == (0, 4)
    empty.sum().backward()
    assert not layer.weight.grad.any()
    with pytest.raises(ValueError, match="found no tensor"):
        split_rows({"scale": torch.tensor(2.0)}, 3)
