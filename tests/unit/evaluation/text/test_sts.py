"""Spearman of cosines, metric files and tables."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.evaluation.tables import markdown_table, write_report
from common.evaluation.text.sts import pair_cosine, spearman, sts_metrics


def test_spearman_equals_scipy_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_spearman_sees_order_only():
    x = np.array([0.1, 0.5, 0.2, 0.9])
    assert spearman(x, np.exp(10 * x)) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)


def test_collapsed_encoder_correlates_with_nothing():
    x = torch.ones(4, 3)
    assert sts_metrics(x, x, [1, 2, 3, 4])["spearman"] == 0.0


def test_pair_cosine():
    x, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    assert pair_cosine(x, y).tolist() == pytest.approx([1.0, 0.5**0.5])


def angled(cosines: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    c = torch.tensor(cosines)
    return torch.tensor([[1.0, 0.0]] * len(c)), torch.stack([c, (1 - c**2).sqrt()], dim=1)


def test_all_and_mean_differ_when_subsets_are_shifted():
    # Perfect inside each subset, but subset b lies at lower cosines and higher gold scores.
    x, y = angled([0.7, 0.8, 0.9, 0.1, 0.2, 0.3])
    metrics = sts_metrics(x, y, [0, 1, 2, 3, 4, 5], subsets=["a"] * 3 + ["b"] * 3)
    assert metrics["spearman_a"] == metrics["spearman_b"] == pytest.approx(1.0)
    assert metrics["spearman_mean"] == pytest.approx(1.0)
    assert metrics["spearman"] < 0
    assert metrics["spearman"] == pytest.approx(
        spearmanr([0.7, 0.8, 0.9, 0.1, 0.2, 0.3], range(6)).statistic
    )


def test_sts_refusals():
    x, y = angled([0.1, 0.2])
    with pytest.raises(ValueError, match="equally long"):
        sts_metrics(x, y, [1, 2, 3])
    with pytest.raises(ValueError, match="1 subset names for 2"):
        sts_metrics(x, y, [1, 2], subsets=["a"])
    with pytest.raises(ValueError, match="NaN"):
        spearman([1.0, float("nan")], [1, 2])


METRICS = {"top1": torch.tensor(0.5), "top1_chance": 0.1, "loss": float("nan"), "a_chance": 2}


def test_table_shows_chance_beside_the_metric():
    assert markdown_table(METRICS).splitlines() == [
        "| metric | value | chance |",
        "|---|---:|---:|",
        "| top1 | 0.5000 | 0.1000 |",
        "| loss | undefined |  |",
        "| a_chance | 2.000 |  |",  # no metric of that name: a row of its own
    ]


def test_a_report_writes_numbers_and_a_table(tmp_path):
    folder = tmp_path / "new" / "run"
    write_report(METRICS, folder, title="Digits")
    stored = json.loads((folder / "metrics.json").read_text())
    assert stored == {"top1": 0.5, "top1_chance": 0.1, "loss": None, "a_chance": 2.0}
    assert list(stored) == list(METRICS)
    text = (folder / "metrics.md").read_text()
    assert text.startswith("# Digits\n\n| metric |")
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.json", "metrics.md"]


def test_report_refusals(tmp_path):
    with pytest.raises(ValueError, match="no metrics"):
        write_report({}, tmp_path)
    with pytest.raises(ValueError, match="cannot stand in a table"):
        write_report({"a|b": 1.0}, tmp_path)
    assert list(tmp_path.iterdir()) == []
