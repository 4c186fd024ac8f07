"""Pyramid, RoIAlign over levels, box head, RPN and box targets."""

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from common.config import UserError
from projects.dito.detection import boxes as bx
from projects.dito.detection import localization_rpn as rpn
from projects.dito.detection.box_head import CosineBoxHead
from projects.dito.detection.pyramid import SimpleFeaturePyramid
from projects.dito.detection.roi_align import multilevel_roi_align, roi_levels, with_image
from tests.projects.dito.conftest import config, network_of


def test_the_pyramid_has_levels_2_to_5_with_256_channels():
    """Strides 4, 8, 16 and 32 of a stride-16 map."""
    pyramid = SimpleFeaturePyramid(16)
    assert pyramid.strides == [4, 8, 16, 32]
    maps = pyramid(torch.randn(1, 16, 4, 4))
    assert [tuple(m.shape) for m in maps] == [
        (1, 256, 16, 16),
        (1, 256, 8, 8),
        (1, 256, 4, 4),
        (1, 256, 2, 2),
    ]
    names = [n for n, _ in pyramid.levels[2].named_parameters() if n.endswith("bias")]
    assert len(names) == 2  # of the norms alone
    with pytest.raises(UserError, match="scales 4, 2, 1"):
        SimpleFeaturePyramid(16, scales=[3])


def test_a_pyramid_with_a_level_left_out_is_refused():
    """A region of the missing level had a crop of zeros."""
    for scales in ([4, 1], [1, 2], [1, 1]):
        with pytest.raises(UserError, match="leave no level out"):
            SimpleFeaturePyramid(16, scales=scales)
    with pytest.raises(UserError, match="whole number of pixels"):
        SimpleFeaturePyramid(16, stride=14)
    assert SimpleFeaturePyramid(16, scales=[2, 1], stride=14).strides == [7, 14]


def test_every_region_is_cut_from_the_level_of_its_size():
    """The result is torchvision's on that level, in the order of the regions."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 256 // s, 256 // s) for s in (4, 8, 16, 32)]
    rois = torch.tensor(
        [[0, 0, 0, 250, 240], [1, 10, 20, 40, 40], [0, 5, 5, 130, 140], [1, 0, 0, 256, 256.0]]
    )
    assert roi_levels(rois[:, 1:], 2, 5).tolist() == [4, 2, 3, 4]
    actual = multilevel_roi_align(maps, [4, 8, 16, 32], rois)
    for i, level in enumerate((2, 0, 1, 2)):
        stride = (4, 8, 16, 32)[level]
        want = roi_align(
            maps[level], rois[i : i + 1], 7, 1 / stride, sampling_ratio=2, aligned=True
        )
        torch.testing.assert_close(actual[i : i + 1], want)
    assert with_image([torch.ones(2, 4), torch.zeros(0, 4), torch.ones(1, 4)])[:, 0].tolist() == [
        0,
        0,
        2,
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_do_not_round_the_boxes(dtype):
    """Pixels of a large image have no bfloat16; the crops keep the dtype of the maps."""
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, 256, 256).to(dtype)]
    rois = torch.tensor([[0, 703.3, 511.7, 903.1, 777.9]])
    actual = multilevel_roi_align(maps, [4], rois)
    assert actual.dtype == dtype
    assert torch.equal(actual, multilevel_roi_align([maps[0].float()], [4], rois).to(dtype))


def test_offsets_are_those_of_fast_rcnn_and_invertible():
    """(10 dx/w, 10 dy/h, 5 log w'/w, 5 log h'/h)."""
    start = torch.tensor([[10.0, 20, 30, 60]])
    truth = torch.tensor([[14.0, 20, 54, 40]])
    want = torch.tensor([[10 * 14 / 20, 10 * -10 / 40, 5 * np.log(2), 5 * np.log(0.5)]]).float()
    torch.testing.assert_close(bx.encode_offsets(truth, start), want)
    torch.testing.assert_close(bx.apply_offsets(want, start), truth)


def test_random_boxes_have_the_asked_area_and_aspect():
    """Inside the image; area and aspect within their ranges unless the side is cut."""
    boxes = bx.random_boxes(np.random.default_rng(0), 4000, (0.05, 0.4), (0.5, 2.0))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    free = (w < 0.999) & (h < 0.999)
    assert np.all((w * h)[free] > 0.0499)
    assert np.all((w * h)[free] < 0.4001)
    assert np.mean((w * h)[free] < 0.225) == pytest.approx(0.5, abs=0.04)
    ratio = np.log(w / h)[free]
    assert abs(ratio.mean()) < 0.03
    assert np.abs(ratio).max() == pytest.approx(np.log(2), abs=0.01)
    grid = bx.grid_boxes([0.5])
    assert len(grid) == 9
    assert grid.max() == 1


def test_a_quarter_of_the_sampled_regions_is_foreground():
    """True boxes are candidates; labels and offsets are those of the best overlap; nothing else
    decides the draw.
    """
    g = torch.Generator().manual_seed(0)
    truth, labels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), torch.tensor([3, 5])
    near = truth[1] + torch.tensor([1.0, 0, 1, 0])
    proposals = torch.cat(
        [
            near[None].repeat(20, 1),
            torch.rand(40, 4, generator=g) + torch.tensor([50.0, 50, 60, 60]),
        ]
    )
    actual = bx.sample_regions(proposals, truth, labels, torch.Generator().manual_seed(1), count=16)
    assert actual.labels.tolist().count(0) == 12
    assert set(actual.labels.tolist()) <= {0, 3, 5}
    assert bool((actual.offsets[actual.labels == 0] == 0).all())
    rows = actual.labels > 0
    back = bx.apply_offsets(actual.offsets[rows], actual.boxes[rows])
    torch.testing.assert_close(back, truth[(actual.labels[rows] == 5).long()], atol=1e-4, rtol=1e-5)
    again = bx.sample_regions(proposals, truth, labels, torch.Generator().manual_seed(1), count=16)
    assert torch.equal(actual.boxes, again.boxes)
    empty = bx.sample_regions(proposals, truth[:0], labels[:0], g, count=16)
    assert empty.labels.tolist() == [0] * 16


def test_places_know_their_box_and_how_central_they_are():
    """Outside every box ignored; sqrt of the ratios inside; the smaller anchors take the smaller
    box.
    """
    maps = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)]
    places = rpn.places_of(maps, [8, 16])
    assert places.levels == [64, 16]
    assert places.centres[0].tolist() == [4, 4]
    truth = torch.tensor([[0.0, 0, 40, 48]])
    target, boxes = rpn.place_targets(places, truth)
    inside = (places.centres[:, 0] < 40) & (places.centres[:, 1] < 48)
    assert bool((target[~inside] == -1).all())
    assert bool((boxes[~inside] == 0).all())
    counted = target >= 0
    assert 0 < int(counted.sum()) < int(inside.sum())
    centre = (places.centres == torch.tensor([20.0, 20.0])).all(1)[:64].nonzero()[0, 0]
    assert target[centre].item() == pytest.approx((20 / 28) ** 0.5)
    assert boxes[centre].tolist() == truth[0].tolist()
    assert rpn.place_targets(places, truth[:0])[0].unique().tolist() == [-1.0]
    tiny = torch.tensor(
        [[1.0, 1, 7, 7]]
    )  # overlaps no anchor by .3: its best place counts all the same
    assert int((rpn.place_targets(places, tiny)[0] >= 0).sum()) == 1


def test_proposals_are_clipped_sorted_and_without_duplicates():
    """An output of zero is the anchor; the top of every level takes part."""
    torch.manual_seed(0)
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4)]
    net = rpn.LocalizationRPN(4)
    logits, distances = net(maps)
    places = rpn.places_of(maps, [8, 16])
    boxes = rpn.boxes_at(places, torch.zeros_like(distances))[0]
    torch.testing.assert_close(boxes[0], torch.tensor([-28.0, -28, 36, 36]))
    actual = rpn.propose(logits[0], boxes, places, (64, 64), top=5, keep=9)
    assert float(actual.boxes.min()) >= 0
    assert float(actual.boxes.max()) <= 64
    assert actual.scores.tolist() == sorted(actual.scores.tolist(), reverse=True)
    assert len(rpn.propose(logits[0], boxes, places, (64, 64), top=5, nms_iou=1.0).boxes) == 10
    doubled = rpn.propose(
        logits[0].repeat(2)[:80] * 0, boxes[:1].repeat(80, 1), places, (64, 64), nms_iou=0.7
    )
    assert len(doubled.boxes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_proposals_take_scores_of_half_precision(dtype):
    places = rpn.Places(torch.rand(9, 2) * 32, torch.full((9,), 8.0), [9])
    low = torch.rand(9, 2) * 10
    boxes, logits = torch.cat([low, low + 10], 1), torch.randn(9).to(dtype)
    actual = rpn.propose(logits, boxes, places, (32, 32))
    want = rpn.propose(logits.float(), boxes, places, (32, 32))
    assert actual.scores.dtype == torch.float32
    assert torch.equal(actual.boxes, want.boxes)


def test_the_head_gives_vectors_and_offsets():
    """Equal trunk for both; one set of offsets, whatever the class."""
    head = CosineBoxHead(8, 6, convs=2, hidden=5)
    crops = torch.randn(4, 8, 7, 7)
    vectors, offsets = head(crops)
    assert offsets.shape == (4, 4)
    torch.testing.assert_close(vectors, head.embed(crops))
    assert not [m for m in head.modules() if "Norm" in type(m).__name__]


def test_the_released_head_has_unit_rows_and_no_bias():
    """`model.head_unit_rows`: the length of a row has no part, that of the states scales all."""
    head = CosineBoxHead(8, 6, convs=1, hidden=5, unit_rows=True)
    states = torch.randn(3, 5)
    before = head.to_text(states)
    assert head.to_text.bias is None
    rows = head.to_text.weight / head.to_text.weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(before, states @ rows.T)
    head.to_text.weight.data[2] *= 9
    torch.testing.assert_close(head.to_text(states), before)
    settings = config("model.head_unit_rows=true"), config()
    assert [network_of(cfg).head.to_text.bias is None for cfg in settings] == [True, False]
