"""Frozen features, per-item kNN, and the pictures of a report."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.data.image.sources import CachedImages, EvalTransform
from common.evaluation.features.frozen import (
    frozen_features,
    frozen_probes,
    source_features,
)
from common.evaluation.features.knn import knn_accuracy, knn_correct
from common.evaluation.figures import class_gallery, embedding_map, principal_components


def blobs(count: int = 60, spread: float = 0.5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3, 5)[labels] + spread * torch.randn(count, 5, generator=generator), labels


class Encoder(nn.Module):
    """Mean colour, with a norm and dropout that must be in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.norm(images.mean((2, 3))))


def test_features_are_those_of_evaluation_mode_and_leave_no_trace():
    images = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8)
    encoder, transform = Encoder().train(), EvalTransform(8)
    actual = frozen_features(encoder, images, transform.batch, batch_size=3)
    expected = transform.batch(images).mean((2, 3)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(actual, expected)
    assert encoder.training
    assert torch.equal(encoder.norm.running_mean, torch.zeros(3))
    assert not actual.requires_grad
    source = CachedImages(images, transform)
    again, kept = source_features(encoder, source, batch_size=3)
    torch.testing.assert_close(again, actual)
    assert kept.tolist() == list(range(7))


def test_unreadable_images_are_left_out_of_features():
    class Gaps:
        def __len__(self):
            return 5

        def load(self, indices, rngs=None):
            good = [p for p, i in enumerate(indices) if i != 3]
            return torch.stack([torch.full((3, 2, 2), float(indices[p])) for p in good]), good

    features, kept = source_features(Encoder(), Gaps(), batch_size=2)
    assert kept.tolist() == [0, 1, 2, 4]
    assert len(features) == 4


@pytest.mark.parametrize("k", [1, 4, 20])
def test_items_average_to_the_metric(k):
    """Also with ties, which an even k makes likely."""
    (x, y), (u, v) = blobs(spread=1.0), blobs(30, 1.0, seed=1)
    items = knn_correct(x, y, u, v, ks=[k, 21])
    metrics = knn_accuracy(x, y, u, v, ks=[k])
    for name in (f"knn{k}_top1", f"knn{k}_weighted_top1"):
        assert float(items[name].double().mean()) == metrics[name]
        assert 0 < metrics[name] < 1


class Largest(TorchDispatchMode):
    """Number of elements of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [out] if isinstance(out, torch.Tensor) else out
        if isinstance(made, list | tuple):
            self.numel = max([self.numel, *(t.numel() for t in made if torch.is_tensor(t))])
        return out


def test_votes_of_items_take_no_more_room_than_a_table_of_classes():
    (x, y), (u, v) = blobs(), blobs(30, seed=1)
    with Largest() as seen:
        knn_correct(x, y + 497, u, v + 497, ks=[20])  # 500 classes
    assert 0 < seen.numel <= 30 * 500  # never one for each neighbour, too


def test_metrics_of_separable_and_of_random_features():
    train, test = blobs(spread=0.05), blobs(30, 0.05, seed=1)
    good = frozen_probes(train, test, num_classes=3, ks=(5, 1000), l2_grid=(1e-2,)).metrics
    assert good["knn5_top1"] == good["linear_probe_top1"] == 1.0
    assert "knn1000_top1" not in good  # more than there are
    assert good["knn5_top1_chance"] == pytest.approx(1 / 3)
    noise = torch.randn(30, 5, generator=torch.Generator().manual_seed(2))
    bad = frozen_probes(train, (noise, test[1]), num_classes=3, ks=(5,), probe=False).metrics
    assert bad["knn5_top1"] < 0.8
    assert "linear_probe_top1" not in bad
    assert bad["effective_rank"] > good["effective_rank"]


def test_principal_components_do_not_depend_on_the_sign_of_the_solver():
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([5, 3, 1, 1])
    actual = principal_components(x)
    assert actual.shape == (20, 2)
    torch.testing.assert_close(
        actual.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0
    )
    assert abs(float((actual[:, 0] * actual[:, 1]).sum())) < 1e-6
    variance = actual.var(0)
    assert variance[0] > variance[1]
    torch.testing.assert_close(principal_components(-x), -actual)


def test_map_has_a_legend_entry_for_each_class(tmp_path):
    x, y = blobs()
    figure = embedding_map(x, y, ["one", "two", "three"], "title")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["one", "two", "three"]
    figure.savefig(tmp_path / "map.png")


def test_gallery_marks_neighbours_of_the_same_class():
    picture = Image.new("RGB", (4, 4))
    rows = class_gallery(
        (torch.eye(2), torch.tensor([0, 1])),
        (torch.eye(2), torch.tensor([0, 0])),
        lambda i: picture,
        lambda i: picture,
        num_queries=2,
        num_results=1,
    )
    assert [row["results"][0]["correct"] for row in rows] == [True, False]
    assert rows[0]["results"][0]["score"] == pytest.approx(1.0)
