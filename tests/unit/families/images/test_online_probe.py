"""The online probe: learns, leaves the encoder alone, and continues exactly."""

import pytest
import torch
from torch import nn

from common.config import UserError
from common.families.images.online_probe import OnlineProbe


def blobs(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two separable classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 2
    return torch.randn(rows, 5, generator=generator) + 4.0 * (2 * labels[:, None] - 1), labels


class Host(nn.Module):
    """What the callback sees of a module: an encoder below `network`, and the logged terms."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Module()
        self.network.encoder = nn.Linear(5, 3)
        self.terms: dict[str, torch.Tensor] = {}

    def logged_terms(self) -> dict[str, torch.Tensor]:
        return self.terms


def test_it_learns_separable_features_and_shuffled_labels_are_not_learned():
    x, y = blobs()
    probe, shuffled = (OnlineProbe(y, 2, lr=0.05) for _ in range(2))
    other = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    for _ in range(40):
        actual, wrong = probe.step(x, y), shuffled.step(x, other)
    assert float(actual["online_top1"]) == 1.0
    assert float(wrong["online_top1"]) < 0.9


def test_it_pairs_every_view_with_its_label_and_gives_the_encoder_no_gradient():
    x, _ = blobs(8)
    host, probe = Host(), OnlineProbe(torch.arange(20) % 2, 2)
    seen = []
    probe.step = lambda features, labels: seen.append((features, labels)) or {}
    probe.on_train_start(None, host)
    ids = torch.tensor([3, 4, 8, 1])
    probe.on_train_batch_start(None, host, {"ids": ids}, 0)
    out = host.network.encoder(x)  # two views of four images
    with torch.no_grad():
        host.network.encoder(x)  # as a momentum or validation pass: not listened to
    out.sum().backward()
    before = host.network.encoder.weight.grad.clone()
    probe.on_after_backward(None, host)
    (features, labels) = seen[0]
    assert labels.tolist() == [1, 0, 0, 1] * 2
    assert torch.equal(features, out.detach())
    assert not features.requires_grad
    assert torch.equal(host.network.encoder.weight.grad, before)
    probe.on_after_backward(None, host)  # nothing is left
    probe.on_train_end(None, host)
    host.network.encoder(x)
    assert len(seen) == 1
    assert not probe._features


def test_no_random_numbers_are_drawn():
    x, y = blobs()
    before = torch.get_rng_state()
    OnlineProbe(y, 2).step(x, y)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_continues_exactly():
    x, y = blobs()
    whole, half, other = (OnlineProbe(y, 2) for _ in range(3))
    for _ in range(6):
        whole.step(x, y)
    for _ in range(3):
        half.step(x, y)
    other.load_state_dict(half.state_dict())
    for _ in range(3):
        other.step(x, y)
    assert torch.equal(whole.weight, other.weight)
    assert not torch.equal(whole.weight, half.weight)
    assert OnlineProbe(y, 2).state_dict() == {}


@pytest.mark.parametrize("labels", [[], [0, -1], [0, 2]])
def test_missing_labels_are_refused(labels):
    with pytest.raises(UserError, match="class of every training image"):
        OnlineProbe(torch.tensor(labels), 2)


def test_a_restored_state_goes_where_the_features_are():
    """A checkpoint is read to the host, and the features come from the accelerator."""
    x, y = blobs()
    probe, other = OnlineProbe(y, 2), OnlineProbe(y, 2)
    probe.step(x, y)
    other.load_state_dict(probe.state_dict())
    actual = other.step(x.to("meta"), y.to("meta"))
    (state,) = other.optimizer.state.values()
    assert {t.device.type for t in (other.weight, state["exp_avg"], *actual.values())} == {"meta"}
    assert float(state["step"]) == 2
