"""Ranks, metrics and counting recommenders, worked out by hand."""

import math

import numpy as np
import pytest
import torch

from projects.mclrec.counting import item_knn, markov, popularity
from projects.mclrec.ranking import full_ranking, rank_metrics, target_ranks

TRAIN = [np.array([1, 2, 3]), np.array([1, 2]), np.array([4, 2, 3]), np.array([4, 1])]


def test_ranks_count_ties_against_and_never_the_padding():
    scores = torch.tensor([[99.0, 1.0, 5.0, 5.0, 7.0]])
    assert target_ranks(scores, torch.tensor([2])).tolist() == [3]  # behind 4 and its twin 3
    assert target_ranks(scores, torch.tensor([4])).tolist() == [1]
    masked = torch.tensor([[4, 2, 0]])
    assert target_ranks(scores, torch.tensor([2]), masked).tolist() == [2]  # it keeps its own place


def test_scores_of_a_diverged_encoder_have_no_rank():
    scores = torch.tensor([[math.nan, 1.0, 2.0], [0.0, 1.0, math.nan]])
    assert target_ranks(scores[:1], torch.tensor([1])).tolist() == [2]  # padding is not read
    with pytest.raises(ValueError, match="1 of 2 users have NaN"):
        target_ranks(scores, torch.tensor([1, 1]))


def test_the_history_stays_among_the_candidates_unless_masked():
    score = lambda histories: torch.tensor([[9.0, 3.0, 2.0, 1.0]] * len(histories))  # noqa: E731
    histories, targets = [np.array([1, 2]), np.array([1])], np.array([3, 2])
    assert full_ranking(score, histories, targets).tolist() == [3, 2]
    assert full_ranking(score, histories, targets, mask_history=True).tolist() == [1, 1]
    assert full_ranking(score, histories, targets, batch_size=1).tolist() == [3, 2]


def test_metrics_by_hand():
    actual = rank_metrics(np.array([1, 4, 6, 30]), ks=(5, 20))
    assert actual["hr_at_5"] == 0.5
    assert actual["hr_at_20"] == 0.75
    assert actual["ndcg_at_5"] == pytest.approx((1 + 1 / math.log2(5)) / 4)
    assert actual["ndcg_at_20"] == pytest.approx((1 + 1 / math.log2(5) + 1 / math.log2(7)) / 4)
    assert actual["mrr_at_5"] == pytest.approx((1 + 1 / 4) / 4)


def test_popularity_counts_and_markov_follows():
    assert popularity(TRAIN, 4)([np.array([1])])[0].tolist() == [0, 3, 3, 2, 2]
    chain = markov(TRAIN, 4)([np.array([3, 2]), np.array([2, 1])]).round(decimals=3)
    assert chain[0].tolist() == [0, 0, 0, 2, 0]  # after 2 came 3, twice
    assert chain[1].tolist() == [0, 0, 2, 0, 0]


def test_skip_markov_weighs_distance_and_age():
    actual = markov(TRAIN, 4, reach=2, memory=2)([np.array([4, 2])])[0].round(decimals=3)
    # after 2: 3 twice; before it 4 (half weight): 2 once, 1 once, 3 at two places (half)
    assert actual.tolist() == [0, 0.5, 0.5, 2 + 0.5 * 0.5, 0]


def test_item_knn_is_the_cosine_of_the_users_of_two_items():
    actual = item_knn(TRAIN, 4)([np.array([3]), np.array([1, 2])])
    assert actual[0].round(decimals=3).tolist() == pytest.approx(
        [0, 1 / math.sqrt(6), 2 / math.sqrt(6), 0, 1 / 2], abs=1e-3
    )
    assert actual[1, 3].item() == pytest.approx(3 / math.sqrt(6), abs=1e-3)


def test_popularity_decides_between_equal_scores():
    scores = markov(TRAIN, 4)([np.array([3])])[0]  # nothing follows 3
    assert scores[1] > scores[3] > 0
    assert scores.max() < 1e-5
