"""Retrieval by class: against a loop, chance, ties, domains, galleries."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.evaluation.gallery import same_class_gallery
from common.evaluation.retrieval.ranking import average_precision
from projects.mofi.class_retrieval import average_precisions, class_retrieval


def test_equal_to_one_query_at_a_time():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 6, generator=g), torch.randint(0, 7, (40,), generator=g)
    y[0] = 99  # alone in its class
    actual = average_precisions(x, y, chunk_size=7)
    scores = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    assert actual[0].isnan()
    for q in range(1, 40):
        others = [i for i in scores[q].argsort(descending=True, stable=True).tolist() if i != q]
        relevant = np.array([bool(y[i] == y[q]) for i in others])
        assert float(actual[q]) == pytest.approx(average_precision(relevant, int(relevant.sum())))


def test_chance_is_the_mean_over_random_orders():
    y = torch.arange(60) // 10
    g = torch.Generator().manual_seed(1)
    maps = [class_retrieval(torch.randn(60, 40, generator=g), y) for _ in range(60)]
    mean = np.mean([m["map"] for m in maps])
    assert mean == pytest.approx(maps[0]["map_chance"], abs=0.004)
    alone = class_retrieval(torch.eye(3), torch.tensor([0, 0, 1]))  # no query, but in the way
    assert alone["map_chance"] == pytest.approx((1 + 1 / 2) / 2)


def test_macro_mean_and_domains():
    x = torch.tensor([[1.0, 0], [1, 0.1], [1, 0.2], [0, 1], [1, 0.05]])
    y = torch.tensor([0, 0, 0, 5, 5])
    ap = average_precisions(x, y)
    actual = class_retrieval(x, y, {"first": [0], "second": [5]})
    assert actual["map"] == pytest.approx(float(ap.mean()))
    assert actual["map_first"] == pytest.approx(float(ap[:3].mean()))
    assert actual["map_second"] == pytest.approx(float(ap[3:].mean()))
    assert actual["map_macro"] == pytest.approx((actual["map_first"] + actual["map_second"]) / 2)
    with pytest.raises(ValueError, match="'third' has no query"):
        class_retrieval(x, y, {"third": [7]})
    with pytest.raises(ValueError, match="two items"):
        class_retrieval(x[2:4], y[2:4])


def test_gallery_leaves_the_query_out():
    scores = torch.tensor([[1.0, 0.2, 0.9], [0.2, 1.0, 0.1], [0.9, 0.1, 1.0]])
    rows = same_class_gallery(scores, ["a", "b", "c"], [0, 0, 1], num_queries=3, num_results=5)
    assert [[(r["item"], r["correct"]) for r in row["results"]] for row in rows] == [
        [("c", False), ("b", True)],
        [("a", True), ("c", False)],
        [("a", False), ("b", False)],
    ]
