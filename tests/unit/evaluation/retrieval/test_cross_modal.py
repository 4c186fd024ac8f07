"""Cross-modal retrieval: hand cases, brute force, pessimistic ties, chance values."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_average_precision

from common.evaluation.retrieval.cross_modal import (
    cross_modal_recall,
    image_text_retrieval,
    relevant_ranks,
)


def embeddings(rows: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def test_hand_case():
    # Similarities of the query (1, 0) with the gallery: 1, 0.8, 0.6, 0.
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0]] * 4)
    assert relevant_ranks(query, gallery, [0, 1, 2, 3]).tolist() == [1, 2, 3, 4]
    metrics = cross_modal_recall(query, gallery, [0, 1, 2, 3], ks=(1, 3))
    assert metrics["recall_at_1"] == 0.25
    assert metrics["recall_at_3"] == 0.75
    assert metrics["recall_at_1_chance"] == pytest.approx(0.25)
    assert metrics["recall_at_3_chance"] == pytest.approx(0.75)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert metrics["map"] == metrics["mrr"]  # one relevant item each
    assert metrics["median_rank"] == 2.5


def test_several_relevant_items_take_the_best_rank_and_average_precision():
    gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0]])
    assert relevant_ranks(query, gallery, [[3, 1]]).tolist() == [2]
    metrics = cross_modal_recall(query, gallery, [[3, 1]], ks=(1,))
    assert metrics["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert metrics["recall_at_1_chance"] == pytest.approx(1 / 2)


def test_other_relevant_items_do_not_push_the_rank_back():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    query = torch.tensor([[1.0, 0.0]])
    assert relevant_ranks(query, gallery, [[0, 1]]).tolist() == [1]
    assert relevant_ranks(query, gallery, [[0]]).tolist() == [2]  # twin: a rival that ties


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000])
def test_equals_brute_force_and_torchmetrics_for_every_chunk_size(chunk_size):
    query, gallery = embeddings(13), embeddings(29, seed=1)
    rng = np.random.default_rng(0)
    relevance = [rng.choice(29, rng.integers(1, 5), replace=False).tolist() for _ in range(13)]
    scores = torch.nn.functional.cosine_similarity(query[:, None], gallery[None], dim=2)
    ranks, precision = [], []
    for row, items in zip(scores, relevance, strict=True):
        order = row.argsort(descending=True).tolist()
        ranks.append(1 + min(order.index(i) for i in items))
        target = torch.zeros(29, dtype=torch.long)
        target[items] = 1
        # torchmetrics takes scores <= 0 as "not retrieved", hence the shift.
        precision.append(retrieval_average_precision(row + 2, target).item())
    assert relevant_ranks(query, gallery, relevance, chunk_size=chunk_size).tolist() == ranks
    metrics = cross_modal_recall(query, gallery, relevance, ks=(5,), chunk_size=chunk_size)
    assert metrics["recall_at_5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert metrics["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert metrics["map"] == pytest.approx(np.mean(precision))


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_collapsed_encoder_scores_zero(chunk_size):
    constant = embeddings(1).expand(8, -1) * 3.7
    metrics = cross_modal_recall(constant, constant, range(8), ks=(1, 5), chunk_size=chunk_size)
    assert metrics["recall_at_1"] == metrics["recall_at_5"] == 0.0
    assert metrics["median_rank"] == 8


def test_ties_by_rounding_count_as_ties():
    vector = embeddings(1, dim=300)
    gallery = torch.cat([vector * s for s in (1.0, 3.0, 0.1, 1 / 7)])  # equal up to rounding
    assert relevant_ranks(gallery, gallery, range(4)).tolist() == [4, 4, 4, 4]
    apart = gallery + torch.eye(4, 300)  # twin: a real difference is seen
    assert relevant_ranks(apart, apart, range(4)).tolist() == [1, 1, 1, 1]


def test_dot_products_are_compared_relative_to_their_size():
    gallery = torch.eye(4) * 1e-6
    assert relevant_ranks(gallery, gallery, range(4), metric="dot").tolist() == [1, 1, 1, 1]


def test_permuting_the_gallery_changes_nothing():
    query, gallery = embeddings(6), embeddings(10, seed=1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    moved = {int(old): new for new, old in enumerate(order)}
    before = relevant_ranks(query, gallery, range(6))
    after = relevant_ranks(query, gallery[order], [moved[i] for i in range(6)])
    assert torch.equal(before, after)


def test_exclusion_removes_the_query_itself():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    partner = [1, 0, 3, 2]
    assert relevant_ranks(gallery, gallery, partner).tolist() == [2, 2, 2, 2]
    assert relevant_ranks(gallery, gallery, partner, exclude=range(4)).tolist() == [1, 1, 1, 1]
    metrics = cross_modal_recall(gallery, gallery, partner, ks=(1,), exclude=range(4))
    assert metrics["recall_at_1_chance"] == pytest.approx(1 / 3)


def test_chance_is_what_random_embeddings_reach():
    query, gallery = embeddings(2000, dim=16), embeddings(20, dim=16, seed=1)
    relevance = [[i % 20, (i + 1) % 20] for i in range(2000)]
    metrics = cross_modal_recall(query, gallery, relevance, ks=(1, 5))
    assert metrics["recall_at_1_chance"] == pytest.approx(2 / 20)
    assert metrics["recall_at_5"] == pytest.approx(metrics["recall_at_5_chance"], abs=0.05)


def test_image_text_retrieval_with_several_captions():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0.6, 0.5]])
    metrics = image_text_retrieval(images, texts, torch.tensor([0, 1, 2, 2]), ks=(1,))
    assert metrics["image_to_text_recall_at_1"] == 1.0  # image 2: text 3 is its nearest
    assert metrics["text_to_image_recall_at_1"] == 0.5  # texts 2 and 3 lie nearer to image 1
    assert metrics["recall_mean"] == 0.75
    assert metrics["text_to_image_recall_at_1_chance"] == pytest.approx(1 / 3)


def test_refusals():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="query 1 has no relevant"):
        relevant_ranks(eye, eye, [[0], [], [2]])
    with pytest.raises(ValueError, match="both relevant and excluded for query 0"):
        relevant_ranks(eye, eye, [0, 1, 2], exclude=[0, 0, 0])
    with pytest.raises(ValueError, match="cut-offs"):
        cross_modal_recall(eye, eye, [0, 1, 2], ks=(0,))
    with pytest.raises(ValueError, match="query 2 has no relevant"):
        image_text_retrieval(eye, eye, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="belongs to image 7"):
        image_text_retrieval(eye, eye, torch.tensor([0, 1, 7]))
