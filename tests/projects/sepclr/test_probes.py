"""Probes of both spaces and the measures beside them (item 8)."""

import numpy as np
import pytest
import torch

from projects.sepclr import evaluate
from projects.sepclr.config import EvalConfig
from projects.sepclr.networks import Codes
from projects.sepclr.paired_sets.pairs import PixelStore, SetPair
from projects.sepclr.probes import (
    auc,
    class_probe,
    code_entropies,
    default_fit,
    dimension_correlations,
    number_probe,
    separation_error,
    space_probes,
)
from tests.projects.sepclr.conftest import config


def pair_of(rows=80):
    """Object and digit are independent; the second half of the rows are targets."""
    index = torch.arange(rows)
    target = index >= rows // 2
    return SetPair(
        PixelStore(torch.zeros(rows, 3, 2, 2, dtype=torch.uint8)),
        target,
        {"digit": torch.where(target, index // 2 % 4, -1)},
        {"object": index % 2, "age": (index % 2).float()},
    )


def perfect_codes(pair):
    """Common code: the object, turned round in the background; salient code: digit and set.

    A probe that also read background rows could not tell the object.
    """
    shown = torch.where(pair.target, pair.common["object"], 1 - pair.common["object"])
    common = torch.nn.functional.one_hot(shown).float()
    salient = torch.nn.functional.one_hot(pair.salient["digit"] + 1, 5).float()
    return Codes(common, common, salient, salient)


def test_perfect_codes_have_no_separation_error():
    pair = pair_of()
    actual = space_probes((pair, perfect_codes(pair)), (pair, perfect_codes(pair)))
    values = {name: probe.value for name, probe in actual.items()}
    assert values["object_from_common"] == values["digit_from_salient"] == 1
    assert values["domain_from_salient"] == 1
    assert values["digit_from_common"] == pytest.approx(0.25)
    assert values["object_from_salient"] == values["domain_from_common"] == 0.5
    assert values["age_from_common"] == pytest.approx(0, abs=1e-6)
    assert values["age_from_salient"] == pytest.approx(actual["age_from_salient"].chance, abs=1e-6)
    assert separation_error(actual, pair.salient) == pytest.approx(0)


def test_leaking_codes_are_found_out():
    """The twin: codes that hold everything are as wrong as chance is far from certainty."""
    pair = pair_of()
    both = torch.cat([perfect_codes(pair).common_rep, perfect_codes(pair).salient_rep], 1)
    codes = Codes(both, both, both, both)
    actual = space_probes((pair, codes), (pair, codes))
    assert actual["digit_from_common"].value == 1
    assert separation_error(actual, pair.salient) == pytest.approx((0.75 + 0.5 + 0.5) / 6)


def test_domain_probe_may_read_the_heads():
    pair = pair_of()
    codes = perfect_codes(pair)._replace(salient_head=torch.zeros(80, 3))
    part = (pair, codes)
    assert space_probes(part, part)["domain_from_salient"].value == 1
    from_heads = space_probes(part, part, domain_from_heads=True)
    assert from_heads["domain_from_salient"].value == 0.5
    assert from_heads["digit_from_salient"].value == 1  # factors are read from the representations


def test_probes_follow_the_config_s_options(monkeypatch):
    """Item 8: each option of `eval` reaches the probes, whose own tests show what it does."""
    monkeypatch.setattr(evaluate, "space_probes", lambda *parts, **options: options)
    cfg, default = config(), {"balanced": False, "standardize": True, "domain_from_heads": False}
    for key, value in default.items():
        options = {**default, key: not value}
        cfg.eval = EvalConfig(**options)
        assert evaluate.probes(cfg, None, None) == options


def test_probes_agree_with_scikit_learn():
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 6))
    y = (x @ rng.standard_normal((6, 3)) + rng.standard_normal((300, 3))).argmax(1)
    fit, test = slice(0, 200), slice(200, 300)
    tensors = [(torch.from_numpy(x[part]), torch.from_numpy(y[part])) for part in (fit, test)]
    model = LogisticRegression(max_iter=1000).fit(x[fit], y[fit])
    actual = class_probe(*tensors, 3, standardize=False)
    assert actual.value == pytest.approx(model.score(x[test], y[test]), abs=0.011)
    balanced = class_probe(*tensors, 3, balanced=True, standardize=False)
    expected = balanced_accuracy_score(y[test], model.predict(x[test]))
    assert balanced.value == pytest.approx(expected, abs=0.02)
    z = x @ rng.standard_normal(6) + 3
    tensors = [(torch.from_numpy(x[part]), torch.from_numpy(z[part])) for part in (fit, test)]
    line = LinearRegression().fit(x[fit], z[fit])
    expected = np.abs(line.predict(x[test]) - z[test]).mean()
    assert number_probe(*tensors, standardize=False).value == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probe_weights_are_those_of_scikit_learn(num_classes):
    """C = 1; scikit-learn has one weight vector for two classes and one per class for more."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    y = (x[:, :num_classes] + rng.standard_normal((30, num_classes))).argmax(1)
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(x, y)
    weight, bias = default_fit(torch.from_numpy(x), torch.from_numpy(y), num_classes)
    if num_classes == 2:
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(weight.numpy(), model.coef_, atol=1e-4)
    bias = bias if num_classes == 2 else bias - bias.mean()
    expected = model.intercept_ if num_classes == 2 else model.intercept_ - model.intercept_.mean()
    np.testing.assert_allclose(bias.numpy(), expected, atol=1e-4)


def test_auc_counts_pairs():
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2])
    target = torch.tensor([False, True, True, False])
    assert auc(scores, target) == 1.0
    assert auc(-scores, target) == 0.0


def test_entropies_show_dependence():
    torch.manual_seed(0)
    code, target = torch.randn(200, 3), torch.ones(200, dtype=torch.bool)
    code = torch.nn.functional.normalize(code, dim=1)
    independent = torch.nn.functional.normalize(torch.randn(200, 3), dim=1)
    same = code_entropies(Codes(code, code, code, code), target, 0.5)
    apart = code_entropies(Codes(code, code, independent, independent), target, 0.5)
    gap = same["kernel_mutual_information"] - apart["kernel_mutual_information"]
    assert gap > 0.3
    assert same["joint_entropy"] < apart["joint_entropy"]


def test_dimension_correlations_find_the_own_dimension():
    torch.manual_seed(0)
    y = torch.rand(100, 2)
    salient = torch.stack([-3 * y[:, 0], y[:, 1] + 1], 1)
    matrix = dimension_correlations(salient, {"a": y[:, 0], "b": y[:, 1]})
    torch.testing.assert_close(matrix.diagonal(), torch.ones(2, dtype=torch.float64))
    assert float(matrix[0, 1]) < 0.4
