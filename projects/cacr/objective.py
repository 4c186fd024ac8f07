"""The objective of each host."""

from common.losses.cacr import CACRLoss, CACRMomentumLoss, CACRQueueLoss
from common.losses.info_nce import InfoNCELoss
from projects.cacr.config import MethodConfig

Objective = CACRLoss | CACRQueueLoss | CACRMomentumLoss | InfoNCELoss


def build_objective(cfg: MethodConfig) -> Objective:
    """The loss of the config's host; on host=batch that of InfoNCE is in `multi_view_terms`."""
    options = {"gather": cfg.gather, "backend": cfg.loss_backend}
    plain = cfg.loss == "infonce"
    if cfg.host == "momentum":
        weighted = cfg.weighting == "full" and not plain
        return CACRMomentumLoss(cfg.temperature, cfg.cost, cfg.reduction, weighted, **options)  # type: ignore[arg-type]
    if cfg.host == "queue" and plain:
        in_batch = cfg.in_batch_negatives  # as CACR: the queue, and other samples' queries
        return InfoNCELoss(in_batch=False, query_negatives=in_batch, **options)  # type: ignore[arg-type]
    shared = (cfg.tau_pos, cfg.tau_neg, cfg.alpha, cfg.beta)
    if cfg.host == "queue":
        rest = (cfg.in_batch_negatives, cfg.replicate_cached_queue_bug, cfg.weighting)
        return CACRQueueLoss(*shared, *rest, **options)  # type: ignore[arg-type]
    form = (cfg.weighting, cfg.detach_weights, cfg.tau_plus, cfg.cost, cfg.rbf_t)
    return CACRLoss(*shared, *form, **options)  # type: ignore[arg-type]
