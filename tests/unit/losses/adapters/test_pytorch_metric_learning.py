"""Losses over labels: against our own, and against the library where it is installed."""

import pytest
import torch
import torch.nn.functional as F

from common.losses import multi_positive
from common.losses.adapters.pytorch_metric_learning import NTXentLoss, SupConLoss
from tests.unit.losses.adapters.equal import assert_same, matrices

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3, 4, 4])
REFERENCES = torch.tensor([0, 1, 2, 2, 9, 9, 4, 4, 4])


def nt_xent_by_hand(z: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / temperature
    terms = []
    for a, p in torch.combinations(torch.arange(len(z)), 2).tolist():
        for i, j in ((a, p), (p, a)):
            if labels[i] == labels[j]:
                negatives = s[i][labels != labels[i]].logsumexp(0)
                terms.append(torch.logaddexp(negatives, s[i, j]) - s[i, j])
    return torch.stack(terms).mean()


def test_sup_con_is_ours():
    (z,) = matrices(1)
    expected = lambda: multi_positive.SupConLoss()(z, LABELS, 10.0).loss  # noqa: E731
    assert_same(lambda: SupConLoss()(z, LABELS), expected, z)


def test_nt_xent_is_the_mean_over_positive_pairs():
    (z,) = matrices(1)
    expected = lambda: nt_xent_by_hand(z, LABELS, 0.3)  # noqa: E731
    assert_same(lambda: NTXentLoss(0.3)(z, LABELS), expected, z)


@pytest.mark.parametrize("loss", [SupConLoss(), NTXentLoss()])
@pytest.mark.parametrize("labels", [torch.zeros(9).long(), torch.arange(9)])
def test_without_negatives_or_positives_the_loss_is_zero(loss, labels):
    (z,) = matrices(1)
    assert float(loss(z, labels)) == 0
    assert not torch.autograd.grad(loss(z, labels), z)[0].any()


def all_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    equal = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool)
    return (*(equal & ~itself).nonzero(as_tuple=True), *(~equal).nonzero(as_tuple=True))


@pytest.mark.parametrize("loss", [SupConLoss(0.3), NTXentLoss(0.3)])
def test_pairs_of_a_miner(loss):
    (z,) = matrices(1)
    pairs = all_pairs(LABELS)
    assert_same(lambda: loss(z, indices_tuple=pairs), lambda: loss(z, LABELS), z)
    fewer = (*pairs[:2], pairs[2][::2], pairs[3][::2])
    assert abs(loss(z, indices_tuple=fewer) - loss(z, LABELS)) > 1e-3
    nothing = torch.empty(0, dtype=torch.long)
    assert float(loss(z, indices_tuple=(*pairs[:2], nothing, nothing))) == 0


def test_a_negative_of_two_triplets_counts_twice():
    (z,) = matrices(1)
    s = F.normalize(z, dim=1) @ F.normalize(z, dim=1).T / 0.3
    triplets = [torch.tensor(x) for x in ([0, 0, 3], [1, 1, 4], [5, 5, 6])]

    def expected() -> torch.Tensor:
        twice = 2 * s[0, 5].exp() / s[0, 1].exp()
        return (2 * twice.log1p() + (s[3, 6] - s[3, 4]).exp().log1p()) / 3

    assert_same(lambda: NTXentLoss(0.3)(z, indices_tuple=triplets), expected, z)


class Euclidean:
    """A distance of that library: what is nearer is smaller."""

    normalize_embeddings, is_inverted, p, power = True, False, 2, 1

    def __call__(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return torch.cdist(query, key)


def test_distances_count_with_a_minus_and_reducers_get_the_losses():
    (z,) = matrices(1)
    loss = NTXentLoss(0.3, Euclidean(), reducer=lambda parts, rows, labels: parts["loss"])
    parts = loss(z, LABELS)
    unit = F.normalize(z, dim=1)
    s = -torch.cdist(unit, unit) / 0.3
    negatives = s[0][LABELS != 0].logsumexp(0)
    torch.testing.assert_close(parts["losses"][0], torch.logaddexp(negatives, s[0, 1]) - s[0, 1])
    assert parts["reduction_type"] == "pos_pair"
    assert len(parts["losses"]) == len(parts["indices"][0]) == len(all_pairs(LABELS)[0])
    assert SupConLoss(reducer=loss.reducer)(z, LABELS)["reduction_type"] == "element"


def test_refuses_what_it_cannot_do():
    (z,) = matrices(1)
    with pytest.raises(ValueError, match="not embedding_regularizer"):
        SupConLoss(embedding_regularizer=object())
    with pytest.raises(ValueError, match="got 2 tensors"):
        SupConLoss()(z, LABELS, (LABELS, LABELS))
    with pytest.raises(ValueError, match="every row needs a label"):
        SupConLoss()(z, LABELS, ref_emb=z)


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss"])
@pytest.mark.parametrize(
    "distance", [None, "CosineSimilarity", "DotProductSimilarity", "LpDistance", "SNRDistance"]
)
def test_equals_the_library(name, distance):
    pytest.importorskip("pytorch_metric_learning", reason="not installed: make test-peers")
    from pytorch_metric_learning import distances, losses, miners, reducers

    options = {"temperature": 0.3}
    if distance == "SNRDistance":
        options["reducer"] = reducers.PerAnchorReducer(reducers.AvgNonZeroReducer())
    if distance is not None:
        raw = {"normalize_embeddings": False} if distance == "DotProductSimilarity" else {}
        options["distance"] = getattr(distances, distance)(**raw)
    ours = {"SupConLoss": SupConLoss, "NTXentLoss": NTXentLoss}[name](**options)
    theirs = getattr(losses, name)(**options)
    z, references = matrices()
    assert_same(lambda: ours(z, LABELS), lambda: theirs(z, LABELS), z, tolerance=1e-5)
    other = {"ref_emb": references, "ref_labels": REFERENCES}
    assert_same(
        lambda: ours(z, LABELS, **other),
        lambda: theirs(z, LABELS, **other),
        z,
        references,
        tolerance=1e-5,
    )
    for miner in (miners.TripletMarginMiner(0.8), miners.MultiSimilarityMiner(0.5)):
        pairs = miner(z, LABELS)
        assert len(pairs[0])
        assert_same(
            lambda pairs=pairs: ours(z, LABELS, pairs),
            lambda pairs=pairs: theirs(z, LABELS, pairs),
            z,
            tolerance=1e-5,
        )
