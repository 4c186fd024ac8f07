"""Partner classes, repeated and class-balanced orders, and the batches made from them."""

from collections import Counter

import numpy as np
import pytest
import torch

from common.data.image.sources import CachedImages, TrainTransform
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from projects.hydra.class_pairs import (
    ClassPairs,
    class_balanced_order,
    partner_labels,
    repeated_order,
)

LABELS = torch.arange(60) % 5
IMAGES = torch.randint(0, 256, (60, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()


def dataset(num_views=1, **options):
    views = [CachedImages(IMAGES, TrainTransform(16, flip_prob=0.5)) for _ in range(num_views)]
    return ClassPairs(views, LABELS, 5, seed=3, **options)


def test_arbitrary_partners_are_a_permutation_of_the_labels():
    drawn = [partner_labels(LABELS, "arbitrary", 5, sample_rng(0, 0, i)) for i in range(20)]
    for partners in drawn:
        assert torch.equal(partners.sort().values, LABELS.sort().values)
    assert len({tuple(p.tolist()) for p in drawn}) == 20
    same = torch.stack(drawn).eq(LABELS).float().mean()
    assert 0.1 < same < 0.3  # the own class is not excluded


def test_identical_and_distinct_partners():
    rng = sample_rng(0, 0, 0)
    assert torch.equal(partner_labels(LABELS, "identical", 5, rng), LABELS)
    drawn = torch.stack([partner_labels(LABELS, "distinct", 5, rng) for _ in range(50)])
    assert not bool((drawn == LABELS).any())
    assert set(drawn[:, 0].tolist()) == {1, 2, 3, 4}
    with pytest.raises(ValueError, match="arbitrary, identical or distinct, got 'same'"):
        partner_labels(LABELS, "same", 5, rng)
    with pytest.raises(ValueError, match="two classes"):
        partner_labels(LABELS * 0, "distinct", 1, rng)


def test_repeated_order_shows_every_sample_several_times_in_a_row():
    order = repeated_order(60, 3, sample_rng(0, 0, 0)).reshape(60, 3)
    assert (order == order[:, :1]).all()
    assert sorted(order[:, 0].tolist()) == list(range(60)) != order[:, 0].tolist()
    assert sorted(repeated_order(60, 1, sample_rng(0, 0, 0)).tolist()) == list(range(60))


def test_class_balanced_order_has_p_classes_with_k_samples():
    order = class_balanced_order(LABELS, 3, 4, sample_rng(0, 0, 0))
    assert len(order) == 60
    for group in order.reshape(-1, 12):
        assert len(set(group.tolist())) == 12
        assert sorted(Counter(LABELS[group].tolist()).values()) == [4, 4, 4]
    # every sample of a class comes before one comes twice
    own = [i for i in order.tolist() if LABELS[i] == 0]
    assert len(set(own[:12])) == min(12, len(own))
    with pytest.raises(ValueError, match="6 classes x 2 samples do not fit 60 samples of 5"):
        class_balanced_order(LABELS, 6, 2, sample_rng(0, 0, 0))


def test_a_small_class_repeats_samples():
    labels = torch.tensor([0] * 20 + [1] * 2)
    order = class_balanced_order(labels, 2, 5, sample_rng(0, 0, 0))
    assert Counter(labels[order].tolist()) == {0: 10, 1: 10}


def test_batch_depends_on_its_keys_alone():
    keys = [(i, 4) for i in (7, 2, 9, 30)]
    first, again = dataset(2)[keys], dataset(2)[keys]
    assert all(torch.equal(first[k], again[k]) for k in ("view_1", "view_2", "partner_labels"))
    assert first["ids"].tolist() == [7, 2, 9, 30]
    assert torch.equal(first["labels"], LABELS[[7, 2, 9, 30]])
    assert not torch.equal(first["view_1"], first["view_2"])
    later = dataset(2)[[(i, 5) for i in (7, 2, 9, 30)]]
    assert not torch.equal(first["view_1"], later["view_1"])
    assert "view_2" not in dataset()[keys]


def test_copies_of_a_sample_are_augmented_differently():
    data = dataset(repeats=3)
    batch = data[[(i, 0) for i in range(6)]]
    ids = batch["ids"].tolist()
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert not torch.equal(batch["view_1"][0], batch["view_1"][1])
    assert not data.shuffle
    assert len(data) == len(data.order(0)) == 180


def test_class_balanced_batches_through_the_data_module():
    data = dataset(classes_and_samples=(4, 3))
    loader = ContrastiveData(data, batch_size=12, seed=3, shuffle=data.shuffle).train_dataloader()
    seen = []
    for _, batch in zip(range(7), loader, strict=False):  # beyond the first pass of 5 batches
        assert sorted(Counter(batch["labels"].tolist()).values()) == [3, 3, 3, 3]
        seen.append(tuple(batch["ids"].tolist()))
    assert len(set(seen)) == 7


def test_orders_change_with_epoch_and_seed():
    data = dataset(repeats=2)
    assert not np.array_equal(data.order(0), data.order(1))
    assert np.array_equal(data.order(0), data.order(0))
    assert dataset().order(0) is None


def test_what_does_not_fit_is_refused():
    source = CachedImages(IMAGES, TrainTransform(16))
    with pytest.raises(ValueError, match=r"59 labels for views of \[60\]"):
        ClassPairs([source], LABELS[:59], 5, seed=0)
    with pytest.raises(ValueError, match="not both"):
        dataset(repeats=2, classes_and_samples=(2, 2))


def test_classes_hand_out_their_samples_in_one_order():
    """Labels with gaps, out of order; the draws are those of a search for each class."""
    labels = torch.tensor([7, 3, 3, 7, 0, 7, 0, 3, 0, 7, 3, 0])
    rng, members = sample_rng(5, 0, 0), {c: np.flatnonzero(labels == c) for c in (0, 3, 7)}
    expected = []
    for _ in range(3):
        for c in rng.choice([0, 3, 7], 2, replace=False):
            if len(members[c]) == 4:
                members[c] = rng.permutation(members[c])
            expected += members[c][:2].tolist()
            members[c] = members[c][2:] if len(members[c]) > 2 else np.flatnonzero(labels == c)
    assert class_balanced_order(labels, 2, 2, sample_rng(5, 0, 0)).tolist() == expected


def test_every_batch_of_an_epoch_draws_its_own_partners():
    data = dataset()
    batches = [data[[(i, 0) for i in range(start, start + 20)]] for start in (0, 20, 40)]
    assert all(torch.equal(batch["labels"], batches[0]["labels"]) for batch in batches)
    assert len({tuple(batch["partner_labels"].tolist()) for batch in batches}) == 3


def test_the_seed_draws_views_partners_and_orders():
    def drawn(seed, **options):
        view = CachedImages(IMAGES, TrainTransform(16, flip_prob=0.5))
        return ClassPairs([view], LABELS, 5, seed=seed, **options)

    keys = [(i, 0) for i in range(20)]
    first, other = drawn(1)[keys], drawn(2)[keys]
    assert not torch.equal(first["view_1"], other["view_1"])
    assert not torch.equal(first["partner_labels"], other["partner_labels"])
    assert not np.array_equal(drawn(1, repeats=2).order(0), drawn(2, repeats=2).order(0))
    balanced = [drawn(seed, classes_and_samples=(3, 4)).order(0) for seed in (1, 2)]
    assert not np.array_equal(*balanced)


def test_images_that_cannot_be_read_are_left_out_of_every_column():
    """Both views, labels, partners and ids are of the images that are left."""

    class Broken(CachedImages):
        """Sample 2 cannot be read."""

        def load(self, indices, rngs=None):
            kept = [i for i, index in enumerate(indices) if index != 2]
            images, _ = super().load([indices[i] for i in kept], [rngs[i] for i in kept])
            return images, kept

    keys = [(i, 0) for i in (7, 2, 9, 30)]
    views = [Broken(IMAGES, TrainTransform(16, flip_prob=0.5)) for _ in range(2)]
    batch = ClassPairs(views, LABELS, 5, seed=3)[keys]
    whole = dataset(2)[keys]
    assert batch["ids"].tolist() == [7, 9, 30]
    assert batch["skipped"] == 1
    assert torch.equal(batch["labels"], LABELS[[7, 9, 30]])
    assert torch.equal(batch["partner_labels"].sort().values, batch["labels"].sort().values)
    for name in ("view_1", "view_2"):
        assert torch.equal(batch[name], whole[name][[0, 2, 3]])
