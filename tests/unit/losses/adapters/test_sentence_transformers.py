"""Multiple negatives ranking: against its equation, and against the library where it is installed."""

from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.losses.adapters.sentence_transformers import (
    DIRECTIONS,
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from tests.unit.losses.adapters.equal import assert_same, matrices

SYMMETRIC = ("query_to_doc", "doc_to_query")


def by_hand(columns: list, scale: float) -> torch.Tensor:
    query, *docs = (F.normalize(x, dim=1) for x in columns)
    return F.cross_entropy(scale * query @ torch.cat(docs).T, torch.arange(len(query)))


class Encoder(nn.Module):
    """Features of a column to embeddings; writes into its input as the library's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 4)).double()

    def forward(self, features: dict) -> dict:
        features["sentence_embedding"] = self.net(features["x"])
        return features


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_equals_its_equation(columns):
    x = matrices(columns)
    loss = MultipleNegativesRankingLoss(None, scale=7.0)
    assert_same(lambda: loss.compute_loss_from_embeddings(x), lambda: by_hand(x, 7.0), *x)


def test_symmetric_is_the_mean_of_two_directions():
    x = matrices()
    loss = MultipleNegativesRankingLoss(None, directions=SYMMETRIC, partition_mode="per_direction")
    both = lambda: 0.5 * (by_hand(x, 20.0) + by_hand(x[::-1], 20.0))  # noqa: E731
    assert_same(lambda: loss.compute_loss_from_embeddings(x), both, *x)


@pytest.mark.parametrize("rows", [2, 4, 32])
def test_the_cache_changes_nothing_but_memory(rows):
    model = Encoder()
    columns = [x.detach() for x in matrices(3)]

    def run(loss):
        torch.manual_seed(0)
        # transformers' batches are a UserDict
        return loss([UserDict({"x": x, "length": 3}) for x in columns], labels=None)

    cached = CachedMultipleNegativesRankingLoss(model, mini_batch_size=rows)
    model.eval()  # dropout is drawn for chunks of other sizes
    plain = MultipleNegativesRankingLoss(model)
    assert_same(lambda: run(cached), lambda: run(plain), *model.parameters())


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="similarity_fct must be"):
        MultipleNegativesRankingLoss(None, similarity_fct=torch.cdist)
    with pytest.raises(ValueError, match="with query_to_doc"):
        MultipleNegativesRankingLoss(None, directions=("doc_to_query",))
    directions = ("query_to_doc", "doc_to_doc")
    with pytest.raises(ValueError, match=r"\['doc_to_doc'\] lack"):
        MultipleNegativesRankingLoss(None, directions=directions, partition_mode="per_direction")
    with pytest.raises(ValueError, match="hardness_mode must be"):
        MultipleNegativesRankingLoss(None, hardness_mode="hard_negatives", hardness_strength=5.0)
    loss = MultipleNegativesRankingLoss(
        None, hardness_mode="in_batch_negatives", hardness_strength=5.0
    )
    with pytest.raises(ValueError, match="is for pairs"):
        loss.compute_loss_from_embeddings(matrices(3))
    with pytest.raises(ValueError, match="got 1 column"):
        MultipleNegativesRankingLoss(None).compute_loss_from_embeddings(matrices(1))
    with pytest.raises(ValueError, match="mini_batch_num_tokens"):
        CachedMultipleNegativesRankingLoss(None, mini_batch_num_tokens=512)


@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"similarity": "dot_score", "scale": 1.0},
        {"directions": DIRECTIONS},
        {"directions": SYMMETRIC, "partition_mode": "per_direction"},
        {"directions": ("query_to_doc", "query_to_query")},
        {"hardness_mode": "all_negatives", "hardness_strength": 5.0},
        {"hardness_mode": "all_negatives", "hardness_strength": 5.0, "directions": DIRECTIONS},
    ],
    ids=str,
)
def test_equals_the_library(options, columns):
    pytest.importorskip("sentence_transformers", reason="not installed: make test-peers")
    from sentence_transformers import losses, util

    similarity = getattr(util, options.get("similarity", "cos_sim"))
    options = {k: v for k, v in options.items() if k != "similarity"} | {
        "similarity_fct": similarity
    }
    ours = MultipleNegativesRankingLoss(None, **options)
    theirs = losses.MultipleNegativesRankingLoss(None, **options)
    x = matrices(columns)
    assert_same(
        lambda: ours.compute_loss_from_embeddings(x),
        lambda: theirs.compute_loss_from_embeddings(x, None),
        *x,
        tolerance=1e-6,
    )
    assert ours.get_config_dict() == theirs.get_config_dict()


def test_a_loss_around_the_cached_one_differentiates_in_the_forward_pass():
    """As MatryoshkaLoss does: `calculate_loss` is replaced, and backward reaches its inputs."""
    model = Encoder().eval()
    columns = [x.detach() for x in matrices(3)]
    cached = CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    original = cached.calculate_loss

    def halved(reps, *args, **kwargs):
        leaves = [[r.detach().requires_grad_() for r in parts] for parts in reps]
        value = 0.5 * original(leaves, *args, **kwargs)
        for parts, copies in zip(reps, leaves, strict=True):
            for part, copy in zip(parts, copies, strict=True):
                part.backward(0.5 * copy.grad)
        return value

    cached.calculate_loss = halved
    plain = MultipleNegativesRankingLoss(model)
    features = lambda: [{"x": x} for x in columns]  # noqa: E731
    assert_same(
        lambda: 3 * cached(features()), lambda: 1.5 * plain(features()), *model.net.parameters()
    )


def test_another_similarity_is_set_or_refused():
    loss = MultipleNegativesRankingLoss(None)
    x = [4 * column for column in matrices()]
    cosines = loss.compute_loss_from_embeddings(x)

    def dot_score(a, b):
        return a @ b.T

    loss.similarity_fct = dot_score
    assert loss.compute_loss_from_embeddings(x) != cosines
    with pytest.raises(ValueError, match="must be cos_sim or dot_score"):
        loss.similarity_fct = torch.cdist
