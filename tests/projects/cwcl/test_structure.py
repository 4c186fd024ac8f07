"""Structure measures, cached features, spoken zero-shot, template sweep."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.config import UserError
from common.evaluation.features.cached import cached_features
from common.evaluation.image_text.zeroshot import class_embeddings, zeroshot_accuracy
from projects.cwcl.speech.zero_shot import class_phrase, prompt_embeddings, spoken_zeroshot
from projects.cwcl.structure import linear_cka, structure_spearman
from projects.cwcl.template_sweep import template_sweep


def test_structure_equals_scipy_s_correlation_of_the_cosines():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(12, 5, generator=generator) for _ in range(2))
    x[3] = x[4]  # ties
    y = x + noise

    units = [z / z.norm(dim=1, keepdim=True) for z in (x, y)]
    upper = np.triu_indices(12, 1)
    cosines = [(u.double() @ u.double().T).numpy()[upper].round(12) for u in units]
    assert structure_spearman(x, y) == pytest.approx(spearmanr(*cosines).statistic, abs=1e-3)
    rotation = torch.linalg.qr(noise.T @ noise)[0]
    assert linear_cka(x, 3 * x @ rotation) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, torch.ones(12, 2)) == 0
    assert structure_spearman(x, torch.ones(12, 2)) == 0
    with pytest.raises(ValueError, match="common samples"):
        structure_spearman(x, y[:5])


def test_a_space_without_structure_is_one_up_to_rounding():
    """Equal cosines and single points give 0 at any scale, real structure counts at any scale."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator)
    point = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    for scale in (1.0, 1e6):
        one = point.expand(12, 5) * scale * (1 + torch.rand(12, 1, generator=generator))
        assert structure_spearman(x, one) == structure_spearman(one, x) == 0  # one direction
        assert linear_cka(x, point.expand(12, 5) * scale) == 0
    assert linear_cka(1e-9 * x, 1e-9 * x) == pytest.approx(1)
    close = point + 1e-5 * x.double()  # little structure, but more than rounding
    assert structure_spearman(close, close) == pytest.approx(1)
    assert linear_cka(close, x) == pytest.approx(1)


def test_features_are_computed_once_for_each_tower(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return torch.ones(2, 3), torch.tensor([0, 2])

    tower = torch.nn.Linear(2, 2)
    for _ in range(2):
        features, kept = cached_features(compute, tmp_path / "c", tower, {"data": "x"})
    assert len(calls) == 1
    assert features.shape == (2, 3)
    assert kept.tolist() == [0, 2]
    with torch.no_grad():
        tower.weight[0, 0] += 1
    with pytest.raises(UserError, match="another tower"):
        cached_features(compute, tmp_path / "c", tower, {"data": "x"})


def test_template_sweep_ends_at_the_ensemble():
    generator = torch.Generator().manual_seed(0)
    table = {}

    def encode(texts):
        return torch.stack(
            [table.setdefault(t, torch.randn(4, generator=generator)) for t in texts]
        )

    images, labels = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    names, templates = ["a", "b", "c"], ["{} 1", "{} 2", "{} 3"]
    actual = template_sweep(images, labels, encode, names, templates, [1, 3])
    for count in (1, 3):
        classes = class_embeddings(encode, names, templates[:count])
        expected = zeroshot_accuracy(images, labels, classes, ks=(1,))["top1"]
        assert actual[f"top1_templates_{count}"] == expected
    with pytest.raises(ValueError, match="counts"):
        template_sweep(images, labels, encode, names, templates, [4])
    with pytest.raises(ValueError, match="exactly once"):
        template_sweep(images, labels, encode, names, ["{} 1", "a photo"], [1])
    asked = []

    def counted(texts):
        asked.append(len(texts))
        return encode(texts)

    assert template_sweep(images, labels, counted, names, templates, [1, 3], batch_size=2) == actual
    assert asked == [2, 1] * 3


def test_spoken_classes_are_the_mean_of_their_texts():
    vectors = {"alarm set": [1.0, 0.0], "set an alarm": [0.0, 1.0], "play": [-1.0, 0.0]}
    classes = prompt_embeddings(
        lambda texts: torch.tensor([vectors[t] for t in texts]),
        [["alarm set", "set an alarm"], ["play"]],
    )
    assert classes[0].tolist() == pytest.approx([0.5**0.5] * 2)
    assert class_phrase("alarm_set") == "alarm set"
    actual, items = spoken_zeroshot(
        torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1, 0]), classes
    )
    assert items == [1.0, 0.0, 0.0]  # a zero vector ties with everything
    assert actual == {"top1": pytest.approx(1 / 3), "top1_chance": 0.5}
    with pytest.raises(ValueError, match="needs a text"):
        prompt_embeddings(lambda texts: torch.zeros(1, 2), [[]])
