"""Wrong shapes and options are refused with a message that says what was found and what is
valid."""

import pytest
import torch

from common.losses.align_uniform import AlignUniformLoss
from common.losses.auxiliary.distillation import softened_divergence
from common.losses.auxiliary.prototypes import prototype_softmax, sampled_prototype_softmax
from common.losses.cacr import CACRLoss, CACRMomentumLoss
from common.losses.functional import masks
from common.losses.functional.cacr import cacr_momentum, repulsion
from common.losses.functional.geometry import joint_entropy, uniformity
from common.losses.functional.margin import candidate_ranking, margin_ranking
from common.losses.functional.masks import guide_mask
from common.losses.functional.soft import weighted_info_nce
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.margin import MarginRankingLoss, TripletLoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss
from projects.one_to_k.matching import choose_positive

X = torch.randn(4, 3)
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (X, torch.randn(5, 3), r"\(4, 3\) and \(5, 3\)"),
        (X, torch.randn(4, 2), r"dimensions differ.*\(4, 3\) and \(4, 2\)"),
        (X[0], X[0], r"two matrices.*\(3,\) and \(3,\)"),
        (X[:0], X[:0], r"no rows.*\(0, 3\)"),
        (X.long(), X.long(), "floating point, got torch.int64"),
    ],
)
def test_shapes_are_printed(image, text, message):
    for loss in (ClipLoss(), SigLipLoss(), InfoNCELoss(), NTXentLoss(), DCLLoss()):
        with pytest.raises(ValueError, match=message):
            loss(image, text, 5.0)


@pytest.mark.parametrize("loss", [DCLLoss(), DebiasedLoss()])
def test_one_sample_has_no_negatives(loss):
    with pytest.raises(ValueError, match="one sample has no negatives"):
        loss(X[:1], X[:1], 5.0)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (ClipLoss, {"backend": "cuda"}, r"\('auto', 'dense', 'blocked', 'triton'\), got 'cuda'"),
        (ClipLoss, {"memory_budget": -1}, "bytes >= 0, got -1"),
        (ClipLoss, {"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        (InfoNCELoss, {"label_smoothing": 0.1, "decoupled": True}, "does not combine"),
        (InfoNCELoss, {"margin": -0.1}, "hardness and margin must be >= 0"),
        (InfoNCELoss, {"symmetric": True, "in_batch": False}, "needs in_batch=True"),
        (DCLLoss, {"sigma": 0.0}, "sigma must be > 0"),
        (DCLLoss, {"detach_weight": True}, "no effect without weighted=True"),
        (DebiasedLoss, {"tau_plus": 1.0}, r"tau_plus must be in \[0, 1\)"),
        (DebiasedLoss, {"beta": -1.0}, "beta must be >= 0"),
        (SupConLoss, {"mode": "mean"}, "must be 'out' or 'in', got 'mean'"),
        (OneToKLoss, {"num_texts": 0}, "num_texts must be >= 1, got 0"),
        (CACRLoss, {"weighting": "both"}, "'without_w2', 'none'\\), got 'both'"),
        (CACRLoss, {"tau_negative": 0.0}, "both tau must be > 0"),
        (CACRMomentumLoss, {"reduction": "Sum"}, "must be 'mean' or 'sum', got 'Sum'"),
        (TripletLoss, {"distance": "l1"}, "'squared', 'cosine'\\), got 'l1'"),
        (TripletLoss, {"margin": -1.0}, "margin must be >= 0"),
    ],
)
def test_options_are_checked_when_the_loss_is_made(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: InfoNCELoss(in_batch=False)(X, X, 5.0), "no negatives"),
        (
            lambda: InfoNCELoss()(X, X, 5.0, hard_negatives=torch.randn(3, 3)),
            r"\(N, K, D\).*\(3, 3\) and \(4, 3\)",
        ),
        (lambda: InfoNCELoss()(X, X, 5.0, queue=torch.randn(3, 2)), r"queue"),
        (lambda: InfoNCELoss()(X, X, 5.0, queue=X, ids=LABELS), "id_mask"),
        (
            lambda: InfoNCELoss(label_smoothing=0.1)(X, X, 5.0, ids=LABELS),
            "label_smoothing .* does not combine",
        ),
        (
            lambda: InfoNCELoss(hard_logit=1.0)(
                X, X, 5.0, hard_negatives=X, mask=masks.id_mask(LABELS, LABELS)
            ),
            "hard_logit does not combine",
        ),
        (lambda: SupConLoss()(X, LABELS[:3], 5.0), r"one label per row.*\(3,\).*\(4, 3\)"),
        (lambda: SupConLoss()(X, LABELS, 5.0, keys=X), "belong together"),
        (lambda: OneToKLoss(2)(X, X, 5.0), r"num_texts=2 .*\(4, 3\) and \(4, 3\)"),
        (
            lambda: HydraLoss()(X, X[:, :2], LABELS, LABELS, 5.0),
            r"query, gate have shapes \(4, 3\) and \(4, 2\)",
        ),
        (lambda: CACRLoss()(X), r"views >= 2.*\(4, 3\)"),
        (lambda: CACRLoss()(torch.stack([X, X])[:, :1]), r"one sample has no negatives"),
        (
            lambda: ClipLoss(label_smoothing=0.1)(X, X, 5.0, ids=LABELS),
            "does not combine with a mask",
        ),
        (lambda: guide_mask(X, [X], margin=0.1, threshold=0.5), "not both"),
        (lambda: weighted_info_nce(X, X, 5.0, torch.ones(3, 4)), r"weights have shape \(3, 4\)"),
        (lambda: AlignUniformLoss(tau=0.0), r"tau must be > 0"),
        (lambda: AlignUniformLoss(-1.0), r"weights must be >= 0"),
        (lambda: AlignUniformLoss()(X, X[:2]), r"\(4, 3\) and \(2, 3\)"),
        (lambda: MarginRankingLoss(-0.1), r"margin must be >= 0"),
        (lambda: uniformity(X[:1]), "needs pairs of rows"),
        (lambda: joint_entropy(X, X[:2]), r"same rows.*\(4, 3\) and \(2, 3\)"),
        (lambda: repulsion(X, X, weighted=False, mask=masks.id_mask(LABELS)), "takes no mask"),
        (lambda: cacr_momentum(X[None], X, 1.0, cost="l2"), "'rbf' or 'euclidean', got 'l2'"),
        (lambda: margin_ranking(X[0], X[:, 0]), r"\(3,\) and \(4,\)"),
        (lambda: candidate_ranking(X, X[0]), r"\(4, 3\) and \(3,\)"),
        (lambda: cacr_momentum(X[None, :1], X[:1], 1.0, cost="euclidean"), "one sample has no neg"),
        (lambda: prototype_softmax(X, X, LABELS[:2], 5.0), r"\(2,\) for \(4, 3\)"),
        (
            lambda: sampled_prototype_softmax(X, X, LABELS, LABELS, 5.0, margin_on="arc"),
            r"margin_on must be one of \('cosine', 'angle'\), got 'arc'",
        ),
        (
            lambda: choose_positive(torch.zeros(2, 4), 2, "worst"),
            r"choice must be one of \('aligned_least', .*, got 'worst'",
        ),
        (
            lambda: softened_divergence(X, X, reduction="mean"),
            "must be 'row' or 'element', got 'mean'",
        ),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("label", [4, -1, -100])
def test_a_label_that_is_no_class_is_refused(label, backend):
    """The back ends took it as the last class, as none, or stopped in an index."""
    labels = torch.tensor([0, 1, 2, label])
    with pytest.raises(ValueError, match=f"rows of the 4 prototypes, from 0; found .*{label}"):
        prototype_softmax(X, X, labels, 5.0, backend=backend)
    prototype_softmax(X, X, torch.tensor([0, 1, 2, 3]), 5.0, backend=backend)
