import pytest
import torch

from common.data.image.synthetic import synthetic_pairs, synthetic_views
from common.data.image_text.synthetic import synthetic_captioned_images
from common.data.text.tokenizers import BpeTokenizer


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


def test_training_set_of_pairs():
    tokenizer = BpeTokenizer.train(synthetic_pairs(8).texts[0], vocab_size=280, context_length=16)
    data = synthetic_captioned_images(
        tokenizer, seed=0, num_samples=16, text_policy="multi", num_texts=2
    )
    batch = data[[(i, 0) for i in range(8)]]
    assert batch["images"].shape == (8, 3, 32, 32)
    assert batch["tokens"].shape == (8, 2, 16)


def test_two_views_differ_from_each_other_and_over_epochs():
    data = synthetic_views(seed=0, num_samples=16)
    batch, later = data[[(3, 0), (4, 0)]], data[[(3, 1), (4, 1)]]
    assert batch["ids"].tolist() == [3, 4]
    assert batch["skipped"] == 0
    assert not torch.equal(batch["view_1"], batch["view_2"])
    assert not torch.equal(batch["view_1"], later["view_1"])
    assert torch.equal(batch["view_2"][1:], data[[(4, 0)]]["view_2"])
