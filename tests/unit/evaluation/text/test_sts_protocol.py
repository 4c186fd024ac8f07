"""The STS protocol on whole sets."""

import pytest
import torch
from scipy.stats import spearmanr

from common.data.text.options import metric_prefix
from common.data.text.sets import StsSet, load_sts
from common.evaluation.text.sts import sts_metrics, sts_score
from common.evaluation.text.sts_protocol import evaluate_sts

ANGLES = {"a": 0.0, "b": 0.3, "c": 0.7, "d": 1.5, "e": 2.5}


class Angles:
    """Encoder whose texts are directions in the plane; counts its calls."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        angles = torch.tensor([ANGLES[text] for text in texts])
        return torch.stack([angles.cos(), angles.sin()], dim=1)


SHIFTED = StsSet("shifted", list("aaaa"), list("bcde"), [4.0, 3.0, 5.0, 4.5], ["x", "x", "y", "y"])
PLAIN = StsSet("plain", list("aab"), list("bee"), [5.0, 1.0, 0.0])


def test_set_score_is_the_concatenated_spearman_and_the_mean_is_named():
    """Checklist 10: one correlation over all subsets, not the mean of their correlations."""
    metrics, cosines = evaluate_sts(Angles(), {"sts12": SHIFTED})
    expected = spearmanr(cosines["sts12"], SHIFTED.scores).statistic
    assert metrics["sts12_spearman"] == pytest.approx(expected)
    assert metrics["sts12_spearman_mean"] == pytest.approx(1.0)
    assert metrics["sts12_spearman"] < 0.5  # the two settings differ here


def test_average_is_over_the_concatenated_scores():
    metrics, cosines = evaluate_sts(Angles(), {"stsb-test": PLAIN, "senteval:STS13": SHIFTED})
    assert set(metrics) == {
        "stsb_test_spearman",
        "sts13_spearman",
        "sts13_spearman_mean",
        "sts_average_spearman",
    }
    mean = (metrics["stsb_test_spearman"] + metrics["sts13_spearman"]) / 2
    assert metrics["sts_average_spearman"] == pytest.approx(mean)
    assert list(cosines) == ["stsb-test", "senteval:STS13"]
    assert [len(values) for values in cosines.values()] == [3, 4]


def test_cosines_belong_to_their_pairs():
    _, cosines = evaluate_sts(Angles(), {"x": PLAIN})
    gaps = [ANGLES[b] - ANGLES[a] for a, b in zip(PLAIN.first, PLAIN.second, strict=True)]
    assert cosines["x"] == pytest.approx(torch.tensor(gaps).cos().tolist(), abs=1e-6)


def test_each_distinct_sentence_is_encoded_once():
    encoder = Angles()
    evaluate_sts(encoder, {"x": PLAIN, "y": SHIFTED})
    assert sorted(encoder.seen) == sorted(ANGLES)


def test_collapsed_encoder_scores_zero():
    metrics, _ = evaluate_sts(lambda texts: torch.zeros(len(texts), 3), {"x": PLAIN})
    assert metrics == {"x_spearman": 0.0, "sts_average_spearman": 0.0}


def test_refusals():
    with pytest.raises(ValueError, match="distinct names"):
        evaluate_sts(Angles(), {})
    with pytest.raises(ValueError, match="distinct names"):
        evaluate_sts(Angles(), {"sts12": PLAIN, "senteval:STS12": SHIFTED})
    with pytest.raises(ValueError, match="3 texts gave embeddings"):
        evaluate_sts(lambda texts: torch.zeros(1, 3), {"x": PLAIN})
    with pytest.raises(ValueError, match="diverged"):
        evaluate_sts(lambda texts: torch.full((len(texts), 3), torch.nan), {"x": PLAIN})


def test_prefixes():
    names = {"sts12": "sts12", "senteval:SICKRelatedness-dev": "sickrelatedness_dev"}
    assert {name: metric_prefix(name) for name in names} == names


def test_score_of_given_similarities_equals_that_of_embeddings():
    x, y = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    gold, subsets = list(range(6)), list("aabbbb")
    cosine = torch.cosine_similarity(x.double(), y.double())
    assert sts_score(cosine, gold, subsets) == pytest.approx(sts_metrics(x, y, gold, subsets))


def test_word_overlap_correlates_with_the_bundled_gold_scores():
    """Real pairs and scores are read in step: counting shared words must be far above chance."""

    def bag(texts):
        vectors = torch.zeros(len(texts), 4096)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                row[int.from_bytes(word.encode()[:16], "big") % 4093] += 1
        return vectors

    data = load_sts(None, "stsb-test")
    metrics, _ = evaluate_sts(bag, {"stsb-test": data})
    assert metrics["stsb_test_spearman"] > 0.45
    turned = StsSet("turned", data.first, data.second[1:] + data.second[:1], data.scores)
    assert abs(evaluate_sts(bag, {"x": turned})[0]["x_spearman"]) < 0.3
