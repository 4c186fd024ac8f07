"""F1-max and ROC-AUC against scikit-learn, with ties, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_curve, roc_auc_score

from projects.moe_embeddings.pair_classification import max_f1, pair_metrics, roc_auc_items
from tests.unit.losses.golden import fill, load


@pytest.mark.parametrize("digits", [8, 1])  # 1: many ties
def test_equal_to_scikit_learn(digits):
    rng = np.random.default_rng(digits)
    labels = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + labels, digits)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    actual, best = pair_metrics(scores, labels), int(f1.argmax())
    assert actual["f1"] == pytest.approx(f1[best], rel=1e-12)
    assert actual["precision"] == pytest.approx(precision[best])
    assert actual["recall"] == pytest.approx(recall[best])
    assert actual["threshold"] == thresholds[best]
    assert actual["auc"] == pytest.approx(roc_auc_score(labels, scores))
    every = [accuracy_score(labels, scores >= t) for t in [*thresholds, np.inf]]
    assert actual["accuracy"] == pytest.approx(max(every))
    assert actual["ratio"] == pytest.approx(scores[labels].mean() / scores[~labels].mean())


def test_golden_values():
    scores = fill((40,), 0.15).detach()
    actual = max_f1(scores, fill((40,), 2.2).detach() + 0.8 * scores > 0)
    expected = load("moe_embeddings")["outputs"]["max_f1"]
    assert actual == pytest.approx(expected, rel=1e-6)


def test_equal_scores_are_all_positive():
    actual = max_f1([0.5] * 4, [True, True, False, False])
    assert (actual["f1"], actual["recall"]) == (pytest.approx(2 / 3), 1.0)
    assert roc_auc_items([0.5] * 4, [True, True, False, False]) == [0.5, 0.5]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="no positive pair"):
        max_f1([0.1], [False])
    with pytest.raises(ValueError, match="no negative pair"):
        roc_auc_items([0.1], [True])
    with pytest.raises(ValueError, match="one label a score"):
        max_f1([0.1, 0.2], [True])
    for value in (np.nan, np.inf):
        for measure in (max_f1, roc_auc_items, pair_metrics):
            with pytest.raises(ValueError, match="1 of 2 scores"):
                measure([value, 0.2], [True, False])
