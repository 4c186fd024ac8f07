"""Loss and logged terms of a batch, of CACR or of InfoNCE on the same views and negatives.

InfoNCE is taken at temperature 1 / (2 tau_neg), where its softmax over negatives is CACR's pi-; the
factor 2 * temperature (as in the paper's ImageNet form) puts gradients on the same scale.

# V views, B samples, Q rows of the queue, D dim
"""

import itertools

import torch
from torch import Tensor

from common.losses.cacr import CACRLoss, CACRQueueLoss
from common.losses.functional.cacr import CacrTerms
from common.losses.functional.kernel import KernelOptions, mean_loss
from common.losses.functional.multi_positive import multi_view_info_nce
from common.losses.info_nce import InfoNCELoss
from projects.cacr.config import MethodConfig


def logged_terms(terms: CacrTerms, kernel: KernelOptions) -> dict[str, Tensor]:
    """Loss and its two terms."""
    attraction, repulsion = (mean_loss(x, kernel) for x in (terms.attraction, terms.repulsion))
    return {
        "loss": attraction + repulsion,
        "attraction": attraction.detach(),
        "repulsion": repulsion.detach(),
    }


def multi_view_terms(objective: CACRLoss, views: Tensor, cfg: MethodConfig) -> dict[str, Tensor]:
    """CACR of raw embeddings (V, B, D), or the mean of symmetric InfoNCE over pairs of views."""
    if cfg.loss == "cacr":
        return logged_terms(objective.terms(views), objective.kernel)
    temperature = 1 / (2 * cfg.tau_neg)
    out = multi_view_info_nce(objective.prepare(views), 1 / temperature, **objective.kernel)
    return {"loss": 2 * temperature * out.loss}


def queue_terms(
    objective: CACRQueueLoss | InfoNCELoss,
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    cfg: MethodConfig,
) -> dict[str, Tensor]:
    """CACR of queries against momentum keys and a queue, or MoCo's loss over all pairs of views.

    Args:
        objective: that of the config.
        queries: (V, B, D) raw embeddings.
        keys: (V, B, D) raw momentum embeddings of the same views.
        queue: (Q, D) unit keys of earlier batches.
        cfg: the method section.
    """
    if isinstance(objective, CACRQueueLoss):
        return logged_terms(objective.terms(queries, keys, queue), objective.kernel)
    temperature = 1 / (2 * cfg.tau_neg)
    pairs = itertools.permutations(range(len(queries)), 2)
    losses = [objective(queries[x], keys[k], 1 / temperature, queue=queue).loss for x, k in pairs]
    return {"loss": 2 * temperature * torch.stack(losses).mean()}
