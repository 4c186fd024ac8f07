"""kNN, few-shot and linear probe against scikit-learn and hand cases."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from common.evaluation.features.few_shot import few_shot_class_mean
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.features.linear_probe import (
    fit_logistic_regression,
    linear_probe,
    scored_linear_probe,
)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x[:600]), torch.from_numpy(y[:600]).long()


def blobs(classes: int, per_class: int, spread: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    centres = torch.randn(classes, 10, generator=generator, dtype=torch.float64) * 3
    noise = torch.randn(len(labels), 10, generator=generator, dtype=torch.float64)
    return centres[labels] + spread * noise, labels


@pytest.mark.parametrize("chunk_size", [50, 4096])
def test_knn_equals_sklearn(digits, chunk_size):
    x, y = digits
    unit = torch.nn.functional.normalize(x)
    metrics = knn_accuracy(x[:400], y[:400], x[400:], y[400:], ks=(1, 20), chunk_size=chunk_size)
    for k in (1, 20):
        plain = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        plain.fit(unit[:400], y[:400])
        assert metrics[f"knn{k}_top1"] == pytest.approx(plain.score(unit[400:], y[400:]))
    weighted = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    weighted.fit(unit[:400], y[:400])
    assert metrics["knn20_weighted_top1"] == pytest.approx(weighted.score(unit[400:], y[400:]))
    assert metrics["knn20_top1_chance"] == 0.1


def test_weighted_vote_overrules_the_majority_only_at_low_temperature():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels, query, truth = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.2]]), torch.tensor([0])
    sharp = knn_accuracy(train, labels, query, truth, ks=(3,), temperature=0.07)
    flat = knn_accuracy(train, labels, query, truth, ks=(3,), temperature=100.0)
    assert sharp["knn3_top1"] == 0.0
    assert sharp["knn3_weighted_top1"] == 1.0
    assert flat["knn3_weighted_top1"] == 0.0


def test_equal_votes_go_to_the_lower_class():
    train, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(train, labels, query, torch.tensor([0]), ks=(2,))["knn2_top1"] == 1.0
    assert knn_accuracy(train, labels, query, torch.tensor([1]), ks=(2,))["knn2_top1"] == 0.0


def test_knn_weights_do_not_overflow_at_tiny_temperatures():
    x, y = blobs(3, 5, 0.1)
    metrics = knn_accuracy(x, y, x, y, ks=(5,), temperature=1e-4)
    assert metrics["knn5_weighted_top1"] == 1.0


def test_knn_refusals():
    x, y = blobs(2, 3, 0.1)
    with pytest.raises(ValueError, match=r"\[1, 6\] \(the train set size\)"):
        knn_accuracy(x, y, x, y, ks=(20,))
    with pytest.raises(ValueError, match="temperature"):
        knn_accuracy(x, y, x, y, ks=(1,), temperature=0)
    with pytest.raises(ValueError, match=r"train_labels must lie in \[0, 1\)"):
        knn_accuracy(x, y, x, y, ks=(1,), num_classes=1)


def test_few_shot_separates_blobs_and_not_noise():
    x, y = blobs(8, 25, 0.3)
    good = few_shot_class_mean(x, y, episodes=50)
    noise = torch.randn(200, 10, generator=torch.Generator().manual_seed(3))
    bad = few_shot_class_mean(noise, y, episodes=200)
    assert good["few_shot_top1"] > 0.98
    assert abs(bad["few_shot_top1"] - bad["few_shot_top1_chance"]) < 0.03
    assert bad["few_shot_top1_chance"] == 0.2


def test_few_shot_is_seeded_and_scale_free():
    x, y = blobs(6, 20, 3.0)
    first = few_shot_class_mean(x, y, episodes=30, seed=1)
    assert first == few_shot_class_mean(x, y, episodes=30, seed=1)
    assert first != few_shot_class_mean(x, y, episodes=30, seed=2)
    scale = torch.arange(1, len(x) + 1, dtype=torch.float64)[:, None]
    scaled = few_shot_class_mean(x * scale, y, episodes=30, seed=1)
    assert scaled["few_shot_top1"] == pytest.approx(first["few_shot_top1"])


def test_few_shot_interval_is_that_of_the_episode_mean():
    x, y = blobs(6, 20, 3.0)
    # Episode e does not depend on the number of episodes: differences give single accuracies.
    sums = [few_shot_class_mean(x, y, episodes=e)["few_shot_top1"] * e for e in range(1, 6)]
    single = np.diff([0.0, *sums])
    metrics = few_shot_class_mean(x, y, episodes=5)
    expected = 1.96 * single.std(ddof=1) / np.sqrt(5)
    assert metrics["few_shot_top1_ci95"] == pytest.approx(expected)
    assert few_shot_class_mean(x, y, episodes=1)["few_shot_top1_ci95"] == 0.0


def test_few_shot_ties_count_as_wrong():
    y = torch.arange(5).repeat_interleave(20)
    assert few_shot_class_mean(torch.ones(100, 4), y, episodes=5)["few_shot_top1"] == 0.0


def test_few_shot_refusals():
    x, y = blobs(4, 20, 0.1)
    with pytest.raises(ValueError, match="5-way episodes need 5 classes, the data have 4"):
        few_shot_class_mean(x, y)
    with pytest.raises(ValueError, match="a class has 20 samples"):
        few_shot_class_mean(x, y, ways=4, shots=6)
    with pytest.raises(ValueError, match="ways >= 2"):
        few_shot_class_mean(x, y, ways=1)


def objective(x, y, weight, bias, l2: float) -> float:
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    return float(loss + l2 / 2 * weight.square().sum())


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_logistic_regression_equals_sklearn(digits, l2):
    x, y = digits[0][:300] / 16, digits[1][:300]
    weight, bias = fit_logistic_regression(x, y, l2, 10, tolerance=1e-8, chunk_size=128)
    reference = LogisticRegression(C=1 / (len(x) * l2), solver="newton-cholesky", tol=1e-10)
    reference.fit(x, y)
    best = objective(x, y, *map(torch.from_numpy, (reference.coef_, reference.intercept_)), l2)
    assert objective(x, y, weight, bias, l2) == pytest.approx(best, abs=1e-8)
    np.testing.assert_allclose(weight.numpy(), reference.coef_, atol=1e-3)
    # Softmax is invariant to a common shift of the biases, which carry no penalty.
    np.testing.assert_allclose(
        bias.numpy() - bias.numpy().mean(),
        reference.intercept_ - reference.intercept_.mean(),
        atol=2e-3,
    )
    other, _ = fit_logistic_regression(x, y, 1.5 * l2, 10)  # negative twin
    assert np.abs(other.numpy() - reference.coef_).max() > 1e-2


def test_logistic_regression_reaches_a_stationary_point_in_float32(digits):
    x, y = digits[0][:300].float() / 16, digits[1][:300]
    weight, bias = (p.requires_grad_() for p in fit_logistic_regression(x, y, 1e-2, 10))
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    loss = loss + 0.005 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert gradient.abs().max() < 1e-4


def test_linear_probe_works_on_features_made_under_inference_mode():
    x, y = blobs(3, 10, 0.1)
    with torch.inference_mode():
        features, labels = x * 2, y + 0
        inside = linear_probe(features, labels, features, labels, l2_grid=(1e-2,))
    assert features.is_inference()
    assert inside == linear_probe(features, labels, features, labels, l2_grid=(1e-2,))
    assert inside["linear_probe_top1"] == 1.0


def test_linear_probe_on_digits_beats_noise(digits):
    x, y = digits
    options = {"l2_grid": (1e-4, 1e-2, 1.0), "max_iterations": 100}
    good = linear_probe(x[:400], y[:400], x[400:], y[400:], **options)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    bad = linear_probe(noise[:400], y[:400], noise[400:], y[400:], **options)
    assert good["linear_probe_top1"] > 0.8
    assert good["linear_probe_mean_per_class"] > 0.8
    assert bad["linear_probe_top1"] < 0.25
    assert bad["linear_probe_top1_chance"] == 0.1
    assert good == linear_probe(x[:400], y[:400], x[400:], y[400:], **options)


def test_linear_probe_chooses_as_sklearn_would():
    x, y = blobs(5, 24, 6.0)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    fit, val, test = order[:50], order[50:90], order[90:]
    grid = (1e-4, 1e-2, 1.0, 100.0)
    unit = (x - x[fit].mean(dim=0)) / x[fit].std(dim=0, correction=0)
    scores = {
        l2: LogisticRegression(C=1 / (50 * l2), tol=1e-8, max_iter=2000)
        .fit(unit[fit], y[fit])
        .score(unit[val], y[val])
        for l2 in grid
    }
    assert len(set(scores.values())) > 1  # the choice matters
    result = linear_probe(
        x[fit], y[fit], x[test], y[test], validation=(x[val], y[val]), l2_grid=grid
    )
    assert result["linear_probe_validation_top1"] == pytest.approx(max(scores.values()))
    assert result["linear_probe_l2"] == max(
        k for k, v in scores.items() if v == max(scores.values())
    )


def test_linear_probe_never_chooses_on_the_test_labels(digits):
    x, y = digits
    options = {"l2_grid": (1e-3, 1e-1), "max_iterations": 50}
    right = linear_probe(x[:200], y[:200], x[200:300], y[200:300], **options)
    wrong = linear_probe(x[:200], y[:200], x[200:300], (y[200:300] + 1) % 10, **options)
    for key in ("linear_probe_l2", "linear_probe_validation_top1"):
        assert right[key] == wrong[key]
    assert wrong["linear_probe_top1"] < 0.1


def test_linear_probe_prefers_the_strongest_of_equal_values_and_refits_on_everything():
    x, y = blobs(3, 10, 0.1)
    result = linear_probe(x, y, x, y, l2_grid=(1e-3, 1e-2))
    assert result["linear_probe_l2"] == 1e-2
    # Class 2 occurs in the validation data only: without the refit it could not be predicted.
    fit, rest = y < 2, y == 2
    result = linear_probe(x[fit], y[fit], x, y, validation=(x[rest], y[rest]), l2_grid=(1e-3,))
    assert result["linear_probe_top1"] == 1.0


def test_standardisation_makes_the_probe_scale_free():
    x, y = blobs(4, 30, 4.0)
    scale = torch.logspace(-3, 3, 10, dtype=torch.float64)
    x = torch.cat([x, torch.full((len(x), 1), 0.1, dtype=torch.float64)], dim=1)  # a constant
    scaled = x * torch.cat([scale, torch.ones(1, dtype=torch.float64)])
    kwargs = {"l2_grid": (1e-2,), "max_iterations": 200}
    plain = linear_probe(x, y, x, y, **kwargs)
    assert linear_probe(scaled, y, scaled, y, **kwargs) == plain
    raw = linear_probe(scaled, y, scaled, y, standardize=False, **kwargs)
    assert raw["linear_probe_top1"] != plain["linear_probe_top1"]


def test_linear_probe_refusals():
    x, y = blobs(2, 1, 0.1)
    with pytest.raises(ValueError, match="leaves no sample to choose l2 on"):
        linear_probe(x, y, x, y)
    with pytest.raises(ValueError, match="validation_fraction must lie"):
        linear_probe(x, y, x, y, validation_fraction=1.0)
    with pytest.raises(ValueError, match="l2_grid is empty"):
        linear_probe(x, y, x, y, validation=(x, y), l2_grid=())
    with pytest.raises(ValueError, match="l2 > 0"):
        fit_logistic_regression(x, y, 0.0, 2)


def test_correct_items_of_a_probe_average_to_its_accuracy(digits):
    x, y = digits[0].double(), digits[1]
    sets = (x[:400], y[:400], x[400:], y[400:])
    metrics, correct = scored_linear_probe(*sets, l2_grid=[1e-2], num_classes=10)
    assert correct["linear_probe_top1"].shape == (200,)
    assert float(correct["linear_probe_top1"].double().mean()) == metrics["linear_probe_top1"]
    assert metrics == linear_probe(*sets, l2_grid=[1e-2], num_classes=10)
    weak = scored_linear_probe(*sets, l2_grid=[1e3], num_classes=10)
    assert weak.metrics["linear_probe_top1"] < metrics["linear_probe_top1"]
