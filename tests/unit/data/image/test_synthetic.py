import pytest
import torch

from common.data.image.synthetic import synthetic_pairs


def test_pairs_are_deterministic_and_carry_their_class():
    pairs = synthetic_pairs(32, num_classes=4, seed=1)
    again = synthetic_pairs(32, num_classes=4, seed=1)
    assert torch.equal(pairs.images, again.images)
    assert pairs.texts == again.texts
    assert not torch.equal(pairs.images, synthetic_pairs(32, num_classes=4, seed=2).images)
    for texts, label in zip(pairs.texts, pairs.labels.tolist(), strict=True):
        assert len(texts) == 5
        assert all(pairs.class_names[label] in text.split() for text in texts)
    x = pairs.images.float().flatten(1)
    x = torch.nn.functional.normalize(x - x.mean(0), dim=1)
    alike = pairs.labels[:, None] == pairs.labels
    assert (x @ x.T)[alike].min() > (x @ x.T)[~alike].max()
    with pytest.raises(ValueError, match="at most 100 classes and 4 rewrites"):
        synthetic_pairs(8, num_rewrites=5)
