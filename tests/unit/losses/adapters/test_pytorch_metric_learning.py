"""Losses over labels: against our own, and against the library where it is installed."""

from types import SimpleNamespace

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


def test_refuses_what_it_cannot_do():
    (z,) = matrices(1)
    with pytest.raises(ValueError, match="not reducer"):
        SupConLoss(reducer=object())
    with pytest.raises(ValueError, match="as distance"):
        NTXentLoss(distance=SimpleNamespace(normalize_embeddings=True, p=2, power=1))
    with pytest.raises(ValueError, match="indices_tuple"):
        SupConLoss()(z, LABELS, (LABELS, LABELS, LABELS))
    with pytest.raises(ValueError, match="every row needs a label"):
        SupConLoss()(z, LABELS, ref_emb=z)


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss"])
@pytest.mark.parametrize("distance", [None, "CosineSimilarity", "DotProductSimilarity"])
def test_equals_the_library(name, distance):
    pytest.importorskip("pytorch_metric_learning", reason="not installed: make test-peers")
    from pytorch_metric_learning import distances, losses

    options = {"temperature": 0.3}
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
