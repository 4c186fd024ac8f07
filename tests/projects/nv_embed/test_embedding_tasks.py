"""Main scores of the task types against scikit-learn, scipy and hand-computed values."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from projects.nv_embed.embedding_benchmark.tasks import (
    average_items,
    classification_correct,
    clustering_v_measure,
    few_shot_correct,
    pair_average_precision,
    reranking_scores,
    retrieval_scores,
    spearman_items,
    summarisation_spearman,
    type_averages,
)


def blobs(count=60, classes=3, dim=8, noise=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.eye(classes, dim)
    return centres[labels] + noise * torch.randn(count, dim, generator=generator), labels


def test_retrieval_and_reranking():
    query, document = torch.eye(3), torch.tensor([[1.0, 0, 0], [0.9, 1, 0], [0, 0.1, 1]])
    assert retrieval_scores(query, document, [{0}, {1}, {2}]) == [1.0, 1.0, 1.0]
    second = retrieval_scores(query, document, [{1}, {1}, {2}])[0]
    assert second == pytest.approx(1 / np.log2(3))
    scores = reranking_scores(query[:1], [document], [[False, True, False]])
    assert scores == [0.5]
    assert reranking_scores(query[:1], [document], [[True, True, False]]) == [1.0]


def test_a_collapsed_encoder_reranks_nothing():
    """The right candidate comes first in its list; of equal ones it is the last, rounding or
    not."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(5, generator=generator)
    texts = torch.stack([one * scale for scale in (1.0, 3.0, 0.7, 1.1)])
    assert reranking_scores(one[None], [texts], [[True, False, False, False]]) == [0.25]
    two = reranking_scores(one[None], [texts], [[True, True, False, False]])
    assert two == [(1 / 3 + 2 / 4) / 2]


def test_embeddings_of_a_diverged_encoder_are_refused():
    good, bad = torch.eye(2), torch.tensor([[1.0, 0.0], [torch.nan, 0.0]])
    for query, document in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="NaN"):
            retrieval_scores(query, document, [{0}, {1}])
    with pytest.raises(ValueError, match="NaN"):
        reranking_scores(good[:1], [bad], [[True, False]])
    with pytest.raises(ValueError, match="NaN"):
        summarisation_spearman([good], [bad], [[1, 2]])


def test_few_shots_are_the_mean_over_draws():
    """Against scikit-learn with C = 1 on the rows that were drawn: each draw has `shots` of every
    class.
    """
    from sklearn.linear_model import LogisticRegression

    from common.data.samplers import sample_rng

    (x, y), (test_x, test_y) = blobs(noise=0.8), blobs(count=90, noise=0.8, seed=1)
    actual = few_shot_correct(x, y, test_x, test_y, shots=2, draws=3)
    expected = torch.zeros(90)
    for draw in range(3):
        order = sample_rng(0, draw, 0, 2**31 + 61).permutation(60)
        rows = [i for c in range(3) for i in [i for i in order if y[i] == c][:2]]
        probe = LogisticRegression(C=1.0).fit(x[rows].numpy(), y[rows].numpy())
        expected += torch.from_numpy(probe.predict(test_x.numpy()) == test_y.numpy()) / 3
    assert (actual - expected).abs().mean() < 0.02
    assert set(actual.mul(3).round().tolist()) == {0, 1, 2, 3}
    more = few_shot_correct(x, y, test_x, test_y, shots=20, draws=3)
    assert more.mean() > actual.mean()
    assert torch.equal(actual, few_shot_correct(x, y, test_x, test_y, shots=2, draws=3))


def test_few_shots_of_two_classes_have_the_penalty_of_scikit_learn(monkeypatch):
    """C = 1 of two classes: one weight vector, the difference of the two here."""
    from sklearn.linear_model import LogisticRegression

    import projects.nv_embed.embedding_benchmark.tasks as module

    x, y = blobs(count=40, classes=2, noise=0.8)
    fits, fit = [], module.fit_logistic_regression

    def kept(*given, **options):
        fits.append(fit(*given, **options))
        return fits[-1]

    monkeypatch.setattr(module, "fit_logistic_regression", kept)
    few_shot_correct(x, y, x, y, shots=20, draws=1)  # all rows, in any order
    (weight, bias), probe = fits[0], LogisticRegression(C=1.0).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose((weight[1] - weight[0]).numpy(), probe.coef_[0], atol=0.02)
    assert float(bias[1] - bias[0]) == pytest.approx(float(probe.intercept_[0]), abs=0.02)


def test_classification_and_clustering():
    x, y = blobs()
    test_x, test_y = blobs(seed=1)
    assert classification_correct(x, y, test_x, test_y).double().mean() > 0.9
    assert classification_correct(x, y, test_x, (test_y + 1) % 3).double().mean() < 0.1
    close, _ = blobs(noise=0.02)
    assert clustering_v_measure(close, y.tolist()) == pytest.approx(1.0)
    assert clustering_v_measure(torch.randn(60, 8), y.tolist()) < 0.5


def test_pairs_equal_scikit_learn():
    from sklearn.metrics import average_precision_score

    first, second = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(0))
    same = [i % 3 == 0 for i in range(20)]
    cosine = torch.nn.functional.cosine_similarity(first, second)
    expected = average_precision_score(same, cosine.numpy())
    assert pair_average_precision(first, second, same) == pytest.approx(expected)


def test_summarisation():
    human = [torch.eye(3)[:1], torch.eye(3)[1:2]]
    machine = [torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]])] * 2
    assert summarisation_spearman(human, machine, [[3, 2, 1], [3, 2, 1]]) == pytest.approx(0.0)
    assert summarisation_spearman(human, machine, [[3, 2, 1], [1, 1, 1]]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="constant"):
        summarisation_spearman(human, machine, [[1, 1, 1], [1, 1, 1]])


def test_items_of_spearman_and_of_the_average():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 50), rng.random(50)
    items = spearman_items(b.tolist(), a.tolist())
    assert np.mean(items) == pytest.approx(spearmanr(a, b).statistic)
    for constant in (([0.5] * 3, [1, 2, 3]), ([1, 2, 3], [0.5] * 3)):
        assert spearman_items(*constant) == [0.0, 0.0, 0.0]  # as `spearman`
    merged = average_items({"x": items, "y": [1.0, 0.0, 1.0]})
    assert len(merged) == 53
    assert np.mean(merged) == pytest.approx((np.mean(items) + 2 / 3) / 2)


def test_averages_by_type():
    actual = type_averages({"sts": {"a": 0.2, "b": 0.4}, "retrieval": {"c": 0.9}})
    assert actual["sts_average"] == pytest.approx(0.3)
    assert actual["retrieval_average"] == pytest.approx(0.9)
    assert actual["average"] == pytest.approx(0.5)  # over tasks, not over types
