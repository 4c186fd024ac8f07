"""Momentum encoder, feature queue and support set."""

import pytest
import torch
from torch import nn

from common.config import UserError
from common.encoders.momentum import MomentumEncoder
from common.encoders.queue import FeatureQueue, GrowingQueue, QueueSet, SupportSet
from common.losses.functional.masks import id_mask
from common.losses.info_nce import InfoNCELoss


def encoder(seed: int = 0, width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def rows(*values: float) -> torch.Tensor:
    """Unit rows of the plane by angle in degrees."""
    angle = torch.tensor(values).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_update_is_the_moving_average_of_every_parameter():
    model = encoder()
    average = MomentumEncoder(model, momentum=0.9)
    start = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model)
    for own, old, new in zip(average.network.parameters(), start, model.parameters(), strict=True):
        torch.testing.assert_close(own, 0.9 * old + 0.1 * new)


@pytest.mark.parametrize(("momentum", "moves"), [(1.0, False), (0.0, True)])
def test_extremes_stand_still_and_copy(momentum, moves):
    model = encoder()
    average = MomentumEncoder(model, momentum)
    before = average.network[0].weight.clone()
    with torch.no_grad():
        model[0].weight.mul_(2)
    average.update(model)
    assert torch.equal(average.network[0].weight, model[0].weight if moves else before)


def test_half_precision_would_stand_still_and_is_refused():
    model = encoder().bfloat16()
    with pytest.raises(UserError, match="precision=bf16-mixed"):
        MomentumEncoder(model, 0.999).update(model)
    MomentumEncoder(model, 0.0).update(model)  # a copy
    MomentumEncoder(model, 1.0).update(model)
    frozen = model.requires_grad_(False)  # does not move anyway
    MomentumEncoder(frozen, 0.999).update(frozen)


def test_no_gradient_enters_the_copy():
    model = encoder()
    average = MomentumEncoder(model)
    x = torch.randn(5, 3, requires_grad=True)
    assert not average(x).requires_grad
    (model(x).sum() + average(x).sum()).backward()
    assert all(p.grad is None and not p.requires_grad for p in average.parameters())
    assert model[0].weight.grad is not None


def test_the_copy_keeps_its_own_batch_statistics():
    """Buffers come from its own forward passes, not from the encoder."""
    model = encoder()
    average = MomentumEncoder(model, momentum=0.0)
    model(torch.randn(8, 3) + 5)
    average.update(model)
    assert torch.equal(average.network[1].running_mean, torch.zeros(4))
    average(torch.randn(8, 3))
    assert not torch.equal(average.network[1].running_mean, torch.zeros(4))


def test_another_encoder_and_another_momentum_are_refused():
    average = MomentumEncoder(encoder())
    with pytest.raises(ValueError, match="parameters differ"):
        average.update(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        MomentumEncoder(encoder(), momentum=1.5)


def test_queue_replaces_the_oldest_rows_first():
    queue = FeatureQueue(4, 2)
    queue.enqueue(rows(0, 10, 20))
    queue.enqueue(rows(30, 40, 50))  # wraps around
    expected = rows(40, 50, 20, 30)
    torch.testing.assert_close(queue.features, expected)
    assert int(queue.position) == 2
    assert len(queue) == 4


def test_a_batch_larger_than_the_queue_leaves_its_last_rows():
    """As if the rows had come one by one."""
    large, single = FeatureQueue(3, 2), FeatureQueue(3, 2)
    batch = rows(0, 10, 20, 30, 40, 50, 60)
    large.enqueue(batch)
    for row in batch:
        single.enqueue(row[None])
    torch.testing.assert_close(large.features, single.features)
    assert torch.equal(large.position, single.position)


def test_rows_are_unit_detached_copies():
    queue, features = FeatureQueue(4, 2), (3 * rows(0, 90)).requires_grad_()
    queue.enqueue(features)
    assert not queue.features.requires_grad
    torch.testing.assert_close(queue.features.norm(dim=1), torch.ones(4))
    with torch.no_grad():
        features.zero_()
    torch.testing.assert_close(queue.features[:2], rows(0, 90))


def test_queue_travels_with_the_state_dict():
    queue, other = FeatureQueue(4, 2), FeatureQueue(4, 2)
    queue.enqueue(rows(0, 10, 20))
    assert queue.state_dict().keys() == {"features", "position"}
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.enqueue(rows(30, 40))
    assert torch.equal(queue.features, other.features)
    assert torch.equal(queue.position, other.position)


def test_start_is_random_directions_of_the_global_seed():
    torch.manual_seed(3)
    first = FeatureQueue(64, 8).features
    torch.manual_seed(3)
    assert torch.equal(first, FeatureQueue(64, 8).features)
    assert abs(float(first.mean())) < 0.1
    assert not torch.equal(first, FeatureQueue(64, 8).features)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="size >= 1"):
        FeatureQueue(0, 2)
    with pytest.raises(ValueError, match=r"expected \(B, 2\) features, got \(4, 3\)"):
        FeatureQueue(4, 2).enqueue(torch.randn(4, 3))


def test_nearest_is_the_row_of_largest_cosine():
    support = SupportSet(3, 2)
    support.enqueue(rows(0, 90, 180))
    query = (5 * rows(10, 100, 170)).requires_grad_()
    actual = support.nearest(query)
    torch.testing.assert_close(actual, rows(0, 90, 180))
    assert not actual.requires_grad
    actual.zero_()
    torch.testing.assert_close(support.features, rows(0, 90, 180))  # a copy


def test_growing_queue_starts_empty_and_then_drops_the_oldest_rows():
    queue = GrowingQueue(3, 2)
    assert queue.rows() is None
    queue.enqueue(rows(0, 10))
    torch.testing.assert_close(queue.rows(), rows(0, 10))
    queue.enqueue(rows(20, 30))
    torch.testing.assert_close(queue.rows(), rows(30, 10, 20))
    queue.enqueue(rows(40, 50, 60, 70))
    assert len(queue.rows()) == 3
    torch.testing.assert_close(queue.rows().sum(0), rows(50, 60, 70).sum(0))
    copy = GrowingQueue(3, 2)
    copy.load_state_dict(queue.state_dict())
    assert torch.equal(copy.rows(), queue.rows())


def numbers(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("kind", [FeatureQueue, GrowingQueue])
def test_ids_and_groups_stay_with_their_rows(kind):
    """Each row keeps its labels through the ring; oldest rows go first; saved and restored."""
    queue = kind(3, 2, ["ids", "groups"])
    assert queue.label("ids").tolist() == ([-1] * 3 if kind is FeatureQueue else [])
    queue.enqueue(rows(0, 10), ids=numbers(0, 10), groups=numbers(5, 6))
    queue.enqueue(rows(20, 30), ids=numbers(20, 30), groups=numbers(7, 8))
    assert queue.label("ids").tolist() == [30, 10, 20]
    assert queue.label("groups").tolist() == [8, 6, 7]
    angles = torch.atan2(queue.features[:, 1], queue.features[:, 0]).rad2deg()
    torch.testing.assert_close(angles, queue.label("ids").float(), rtol=0, atol=1e-3)
    queue.enqueue(rows(40, 50, 60, 70), ids=numbers(40, 50, 60, 70), groups=numbers(1, 2, 3, 4))
    assert sorted(queue.label("ids").tolist()) == [50, 60, 70]
    copy = kind(3, 2, ["ids", "groups"])
    copy.load_state_dict(queue.state_dict())
    assert torch.equal(copy.label("ids"), queue.label("ids"))
    assert "label_groups" in queue.state_dict()
    with pytest.raises(KeyError, match="no label 'names', only"):
        queue.label("names")


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"ids": numbers(1, 2)},
        {"ids": numbers(1), "groups": numbers(1, 2)},
        {"ids": numbers(1, 2), "groups": numbers(1, 2), "more": numbers(1, 2)},
    ],
)
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match=r"expected labels \['ids', 'groups'\], one for each of 2"):
        FeatureQueue(4, 2, ["ids", "groups"]).enqueue(rows(0, 10), **labels)


def test_queued_keys_of_the_query_s_id_are_no_negatives():
    """The mask by stored ids leaves out exactly those columns."""
    generator = torch.Generator().manual_seed(0)
    query, key, old = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    queue = GrowingQueue(8, 6, ["ids"]).double()
    queue.enqueue(old, ids=numbers(9, 1, 8, 1))
    ids = numbers(1, 2, 3, 4)
    loss = InfoNCELoss()
    masked = loss(query, key, 5.0, queue=queue.rows(), mask=id_mask(ids, queue.label("ids")))
    whole = loss(query, key, 5.0, queue=queue.rows())
    fewer = loss(query, key, 5.0, queue=queue.rows()[[0, 2]])
    torch.testing.assert_close(masked.per_sample[0], fewer.per_sample[0])
    torch.testing.assert_close(masked.per_sample[1:], whole.per_sample[1:])
    assert masked.per_sample[0] < whole.per_sample[0]


def test_named_queues_are_written_row_by_row_together():
    queues = QueueSet({"image": FeatureQueue(3, 2, ["ids"]), "text": FeatureQueue(3, 2, ["ids"])})
    for first in (0, 2):
        angles = (10.0 * first, 10.0 * first + 10)
        features = {"text": rows(*angles).flip(1), "image": rows(*angles)}
        queues.enqueue(features, ids=numbers(first, first + 1))
    assert queues["image"].label("ids").tolist() == [3, 1, 2]
    torch.testing.assert_close(queues["image"].features, queues["text"].features.flip(1))
    assert {"image.features", "text.label_ids", "text.position"} <= queues.state_dict().keys()
    with pytest.raises(ValueError, match=r"rows for \['image', 'text'\], got \{'image': 2\}"):
        queues.enqueue({"image": rows(0, 1)}, ids=numbers(0, 1))
    with pytest.raises(ValueError, match="equally many rows"):
        queues.enqueue({"image": rows(0, 1), "text": rows(0)}, ids=numbers(0, 1))
    with pytest.raises(ValueError, match="equal size and labels"):
        QueueSet({"image": FeatureQueue(3, 2), "text": FeatureQueue(4, 2)})


def test_a_queue_for_dot_products_keeps_the_length_of_its_rows():
    """`normalize=False`: rows as they came, in both kinds; the default makes them unit vectors."""
    for kind in (FeatureQueue, GrowingQueue):
        plain, unit = kind(3, 2, normalize=False), kind(3, 2)
        for queue in (plain, unit):
            queue.enqueue(torch.tensor([[3.0, 4.0]]))
        assert plain.features[0].tolist() == [3.0, 4.0]
        torch.testing.assert_close(unit.features[0], torch.tensor([0.6, 0.8]))
