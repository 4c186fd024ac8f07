"""Report of the gap, statistics of pairs, adapters."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from common.config import UserError
from projects.close.gap_metrics import gap_report
from projects.close.modality_gap import (
    TextAdapter,
    gap_statistics,
    random_shift,
    read_gap_statistics,
)


def pairs(count=400, dim=6):
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(count, dim, generator=generator), dim=1)
    image = F.normalize(text + torch.tensor([2.0] + [0.0] * (dim - 1)), dim=1)
    return text, image


def test_report_equals_all_pairs_one_by_one():
    text, image = pairs(5)
    actual = gap_report(3 * text, image)
    cosine = image @ text.T
    off = ~torch.eye(5, dtype=torch.bool)
    assert actual["paired"] == pytest.approx(float(cosine.diag().mean()), abs=1e-6)
    assert actual["unpaired"] == pytest.approx(float(cosine[off].mean()), abs=1e-6)
    assert actual["text_text"] == pytest.approx(float((text @ text.T)[off].mean()), abs=1e-6)
    assert actual["image_image"] == pytest.approx(float((image @ image.T)[off].mean()), abs=1e-6)
    assert actual["offset"] == pytest.approx(float((image.mean(0) - text.mean(0)).norm()), abs=1e-6)
    with pytest.raises(ValueError, match="no pairs"):
        gap_report(text, image[:4])


def test_statistics_are_mean_covariance_and_least_squares():
    text, image = pairs()
    actual = gap_statistics(text, image)
    torch.testing.assert_close(actual.shift, (image - text).mean(0))
    torch.testing.assert_close(
        actual.root @ actual.root.T, torch.cov((image - text).T), atol=1e-6, rtol=1e-4
    )
    design = torch.cat([text, torch.ones(len(text), 1)], 1)
    best = torch.linalg.lstsq(design, image).solution
    torch.testing.assert_close(actual.weight, best[:-1].T, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(actual.bias, best[-1], atol=1e-4, rtol=1e-3)


def test_adapters_bring_texts_nearer_to_their_images():
    text, image = pairs()
    actual = gap_statistics(text, image)
    before = float((text * image).sum(1).mean())
    for adapter in (
        TextAdapter("shift", shift=actual.shift),
        TextAdapter("linear", weight=actual.weight, bias=actual.bias),
    ):
        for mode in (True, False):  # no noise: the same in training
            assert float((adapter.train(mode)(text) * image).sum(1).mean()) > before + 0.05


def test_structured_noise_has_the_covariance_and_its_factor():
    text, image = pairs()
    actual = gap_statistics(text, image)
    adapter = TextAdapter("covariance", 0.1, shift=actual.shift, root=actual.root, factor=3.0)
    noise = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1))
    want = text[:2] + actual.shift + 3 * noise[:, 1] @ actual.root.T + 0.1 * noise[:, 0]
    torch.testing.assert_close(adapter(text[:2], noise), F.normalize(want, dim=1))
    assert torch.equal(adapter.eval()(text[:2]), text[:2])
    assert adapter.num_draws == 2
    assert TextAdapter("noise", 0.0).num_draws == 0


def test_a_random_shift_depends_on_its_seed_alone():
    one, two, other = random_shift(8, 0.5, 1), random_shift(8, 0.5, 1), random_shift(8, 0.5, 2)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert float(one.norm()) == pytest.approx(0.5)


def test_bad_adapters_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lacks its tensors"):
        TextAdapter("linear")
    save_file({"shift": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="statistics of the gap need"):
        read_gap_statistics(tmp_path / "x.safetensors")
