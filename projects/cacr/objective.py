"""The objective of each host, and what is logged of it."""

from torch import Tensor

from common.losses.cacr import CACRLoss, CACRMomentumLoss, CACRQueueLoss
from common.losses.functional.cacr import CacrTerms
from common.losses.functional.kernel import KernelOptions, mean_loss
from common.losses.functional.multi_positive import multi_view_info_nce
from projects.cacr.config import MethodConfig

Objective = CACRLoss | CACRQueueLoss | CACRMomentumLoss


def build_objective(cfg: MethodConfig) -> Objective:
    """The loss of the config's host."""
    options = {"gather": cfg.gather, "backend": cfg.loss_backend}
    if cfg.host == "momentum":
        return CACRMomentumLoss(cfg.temperature, cfg.cost, cfg.reduction, **options)  # type: ignore[arg-type]
    shared = (cfg.tau_pos, cfg.tau_neg, cfg.alpha, cfg.beta)
    if cfg.host == "queue":
        bug = cfg.replicate_cached_queue_bug
        return CACRQueueLoss(*shared, cfg.in_batch_negatives, bug, **options)  # type: ignore[arg-type]
    rest = (cfg.weighting, cfg.detach_weights, cfg.tau_plus, cfg.cost, cfg.rbf_t)
    return CACRLoss(*shared, *rest, **options)  # type: ignore[arg-type]


def logged_terms(terms: CacrTerms, kernel: KernelOptions) -> dict[str, Tensor]:
    """Loss and its two terms."""
    attraction, repulsion = (mean_loss(x, kernel) for x in (terms.attraction, terms.repulsion))
    return {
        "loss": attraction + repulsion,
        "attraction": attraction.detach(),
        "repulsion": repulsion.detach(),
    }


def multi_view_terms(objective: CACRLoss, views: Tensor, cfg: MethodConfig) -> dict[str, Tensor]:
    """CACR of raw embeddings (V, B, D), or InfoNCE on the same views.

    InfoNCE is taken at temperature 1 / (2 tau_neg), where its softmax over negatives is CACR's pi-;
    the factor 2 * temperature (as in the paper's ImageNet form) puts gradients on the same scale,
    so that arms compare at equal learning rates.
    """
    if cfg.loss == "cacr":
        return logged_terms(objective.terms(views), objective.kernel)
    temperature = 1 / (2 * cfg.tau_neg)
    out = multi_view_info_nce(objective.prepare(views), 1 / temperature, **objective.kernel)
    return {"loss": 2 * temperature * out.loss}
