"""The n-gram model: probabilities that sum to one, worked out by hand, and better with the right
context.
"""

import math

import numpy as np
import pytest

from projects.contrastive_search.ngram_model import NgramModel

DOCUMENTS = [[0, 1, 2, 0, 1, 3, 0, 1, 2], [2, 0, 1]]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("context", [(), (1,), (0, 1), (4, 4), (3, 0, 1)])
def test_probabilities_sum_to_one(order, context):
    model = NgramModel(DOCUMENTS, 5, order)
    assert sum(model.probability(context, t) for t in range(5)) == pytest.approx(1)
    assert model.probability(context, 4) > 0  # never seen


def test_a_bigram_by_hand():
    """n(0 1) = 2, n(0 .) = 2, one kind follows 0; below: 1 follows one kind of token, of 2
    bigrams."""
    model = NgramModel([[0, 1, 0, 1]], 3, order=2, discount=0.5)
    unigram = (1 - 0.5) / 2 + 0.5 * 2 / 2 / 3
    assert model.probability((0,), 1) == pytest.approx((2 - 0.5) / 2 + 0.5 * 1 / 2 * unigram)


def test_texts_like_the_training_text_are_likelier():
    model = NgramModel(DOCUMENTS, 5)
    assert model.mean_log_probability([0], [1, 2, 0]) > model.mean_log_probability([0], [2, 1, 3])
    one = model.mean_log_probability([0, 1], [2])
    assert one == pytest.approx(math.log(model.probability((0, 1), 2)))
    assert np.isnan(model.mean_log_probability([0], []))


@pytest.mark.parametrize("options", [{"order": 0}, {"discount": 1.0}, {"vocabulary": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=">= 1"):
        NgramModel(DOCUMENTS, **{"vocabulary": 5, **options})
