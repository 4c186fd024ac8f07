"""Peaks of heat maps, and the cells and boxes of TransFusion's queries."""

import torch

from projects.trend.encoders.bev import BevGrid, encode_boxes, heat_peaks
from projects.trend.encoders.transfusion_head import QueryOutput, TransFusionHead

GRID = BevGrid((-4.0, -8.0), (1.0, 2.0), (8, 16))  # 8 rows along y, 16 columns along x


def test_neighbours_of_a_peak_count_for_crowded_classes_alone():
    heat = torch.tensor([0.9, 0.8, 0.1, 0.2]).expand(1, 2, 1, 4)
    for crowded, expected in (((), [2, 2]), ((1,), [2, 4])):
        scores, labels, _ = heat_peaks(heat, 8, crowded)
        assert labels[scores > 0].bincount(minlength=2).tolist() == expected


def test_queries_of_crowded_classes_may_be_neighbours():
    """With as many queries as the map has cells, all of the crowded class's are there."""
    torch.manual_seed(0)
    head = TransFusionHead(4, 8, 1, GRID, 128, crowded=[0]).eval()
    x = torch.randn(1, 4, 8, 16)
    assert (head(x).scores > 0).all()
    head.crowded = ()
    assert (head(x).scores > 0).sum() < 64


def test_queries_are_decoded_from_their_cells():
    boxes = torch.tensor(
        [[10.3, -5.1, 0.5, 4, 2, 1.5, 0.7, 1, -2], [-3.2, 6.6, 0, 1, 1, 2, -3, 0, 0]]
    )
    codes, cells = encode_boxes(boxes, GRID)
    logits = torch.tensor([[-9.0, 9.0], [8.0, -9.0]])
    out = QueryOutput(
        torch.zeros(1, 2, 8, 16), logits[None], codes[None], cells[None], torch.ones(1, 2)
    )
    (actual,) = TransFusionHead(4, 8, 2, GRID, 2).decode(out)
    torch.testing.assert_close(actual.boxes, boxes)
    assert actual.labels.tolist() == [1, 0]


def test_queries_start_at_column_and_row_of_their_peaks():
    torch.manual_seed(0)
    out = TransFusionHead(4, 8, 1, GRID, 5).eval()(torch.randn(1, 4, 8, 16))
    columns, rows = out.cells[0].unbind(1)
    assert int(columns.max()) > 7
    torch.testing.assert_close(out.heat[0, 0, rows, columns].sigmoid(), out.scores[0])
