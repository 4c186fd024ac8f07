"""The linear probe of the small-scale release."""

import pytest
import torch

from common.data.image.sources import TrainTransform
from common.families.images.data import eval_transform
from common.families.images.evaluation import Frozen
from projects.cacr import probe
from projects.cacr.data import image_part
from projects.cacr.probe import adam_probe
from tests.projects.cacr.conftest import config


def probed(*words, separable=True):
    """The release's probe on features that show the class, or nothing."""
    cfg = config("eval.adam_probe_epochs=6", *words)
    bank, test = (image_part(cfg, part) for part in ("bank", "test"))
    seen = []

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            seen.append(images)
            colour = images.flatten(2).mean(2) * self.scale
            return torch.cat([colour, colour.square()], 1) if separable else 0 * colour

    encoder = Encoder().eval()
    with torch.inference_mode():
        features = encoder(eval_transform(cfg.data).batch(test.data.images))
        seen.clear()
        actual, right = adam_probe(cfg, encoder, bank, Frozen(features, test.labels, test.labels))
    assert encoder.scale.grad is None
    return actual, right, seen


def test_adam_probe_learns_from_fresh_crops_of_the_bank_alone(monkeypatch):
    """Every image once an epoch, the last batch kept, other crops each time; rate in steps."""
    step, lr, betas, crops = torch.optim.Adam.step, [], set(), []

    def transform(*args, **options):
        crops.append(TrainTransform(*args, **options))
        return crops[-1]

    def recorded(self):
        lr.append(self.param_groups[0]["lr"])
        betas.add(self.param_groups[0]["betas"])
        return step(self)

    assert (probe.BATCH, probe.RATE) == (128, 1e-3)  # the release's, which learn too slowly here
    monkeypatch.setattr(probe, "TrainTransform", transform)
    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    monkeypatch.setattr(probe, "RATE", 0.05)
    monkeypatch.setattr(probe, "BATCH", 100)
    actual, right, seen = probed()
    assert [(c.size, c.scale, c.flip_prob) for c in crops] == [(16, (0.4, 1.0), 0.5)]
    assert betas == {(0.5, 0.999)}
    assert actual["adam_probe_top1"] == pytest.approx(float(right.double().mean()))
    assert actual["adam_probe_best_top1"] >= actual["adam_probe_top1"] > 2 / 8  # chance is 1 / 8
    assert [len(images) for images in seen] == [100, 100, 56] * 6
    first, second = (sum(x.sum(0) for x in seen[at : at + 3]) for at in (0, 3))
    assert not torch.allclose(first, second, atol=0.1)  # other crops, not another order alone
    assert lr == pytest.approx([0.05] * 12 + [0.01] * 3 + [0.002] * 3)
    assert probed()[0] == actual


def test_adam_probe_on_features_without_information_stays_at_chance():
    assert probed(separable=False)[0]["adam_probe_top1"] == pytest.approx(1 / 8, abs=0.06)
