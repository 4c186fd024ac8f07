"""Contrastive attraction and repulsion on three hosts, and what its weights say.

# V views, K positives, B samples of this rank, D dim
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.evaluation.text.sts import spearman
from common.losses.base import PairLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.cacr import cacr_momentum
from common.losses.functional.cacr_queue import cacr_queue
from common.losses.functional.geometry import pairwise_squared_distance
from common.losses.functional.info_nce import clip
from common.losses.functional.kernel import mean_loss
from projects.cacr.config import MethodConfig

DIAGNOSED_QUERIES = 64  # rows of a batch whose weights are looked at


def attraction_weights(query: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Share of each positive in the attraction: far ones weigh more.

        pi_k|x = exp(tau * ||q - p_k||^2) / sum_k' exp(tau * ||q - p_k'||^2)

    Source: Zheng et al. 2023, equation 5, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        positives: (K, N, D), L2-normalised: other views of the same samples.
        tau: > 0, t+.

    Returns:
        (N, K), rows sum to 1.

    >>> views = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> attraction_weights(views[0], views, math.log(3) / 4)
    tensor([[0.2500, 0.7500]])
    """
    return (tau * positive_distances(query, positives)).softmax(1)


def repulsion_weights(query: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """Share of each negative in the repulsion: near ones weigh more, the own sample has none.

        pi_j|i = exp(-tau * ||q_i - n_j||^2) / sum_{j' != i} exp(-tau * ||q_i - n_j'||^2)

    Source: Zheng et al. 2023, equation 6, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        negatives: (M, D), L2-normalised, M >= N; row i belongs to the sample of query i.
        tau: > 0, t-.

    Returns:
        (N, M), rows sum to 1, zero where j = i.
    """
    logits = -tau * pairwise_squared_distance(query, negatives)
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    return logits.masked_fill(own, -torch.inf).softmax(1)


def positive_distances(query: Tensor, positives: Tensor) -> Tensor:
    """Squared distances of a query (N, D) and its positives (K, N, D), (N, K)."""
    return (query - positives).square().sum(-1).T


@torch.no_grad()
def weight_diagnostics(
    query: Tensor, positives: Tensor, negatives: Tensor, tau_pos: float, tau_neg: float
) -> dict[str, float]:
    """Contrast within the positives and within the negatives of some queries.

    The weights are CACR's, whatever the loss in use weighs by, so that all losses compare.

    Args:
        query: (N, D) raw embeddings.
        positives: (K, N, D) raw, other views.
        negatives: (M, D) raw, M >= N; row i belongs to the sample of query i.
        tau_pos: t+.
        tau_neg: t-.

    Returns:
        Mean entropy of the weights in nats (``positive_entropy``, at most log K;
        ``negative_entropy``, at most log(M - 1)), and over all pairs the rank correlation of
        weight and distance (``positive_rank_correlation`` is 0 if K = 1).
    """
    query, positives, negatives = (
        F.normalize(x.float(), dim=-1) for x in (query, positives, negatives)
    )
    pi = attraction_weights(query, positives, tau_pos)
    pushed = repulsion_weights(query, negatives, tau_neg)
    others = ~torch.eye(*pushed.shape, dtype=torch.bool, device=pushed.device)
    near = pairwise_squared_distance(query, negatives)[others]
    far = positive_distances(query, positives)
    return {
        "positive_entropy": float(torch.special.entr(pi).sum(1).mean()),
        "negative_entropy": float(torch.special.entr(pushed).sum(1).mean()),
        "positive_rank_correlation": spearman(pi.flatten().cpu(), far.flatten().cpu()),
        "negative_rank_correlation": spearman(pushed[others].cpu(), near.cpu()),
    }


class MultiViewObjective(nn.Module):
    """All views of a batch against each other: CACR with its ablations, or InfoNCE.

    InfoNCE is the mean over view pairs of the symmetric loss at temperature 1 / (2 tau_neg), where
    its softmax over negatives is CACR's pi-; the factor 2 * temperature (as in the paper's ImageNet
    form) puts gradients on the same scale, so that arms compare at equal learning rates.

    Source: Zheng et al. 2023, equations 5 to 8, arXiv 2105.03746; InfoNCE: van den Oord et al.
    2018, arXiv 1807.03748.

    Args:
        cfg: the method section.

    Distributed: gathers negatives (local if ``gather=False``).
    """

    def __init__(self, cfg: MethodConfig) -> None:
        super().__init__()
        self.infonce, self.temperature = cfg.loss == "infonce", 1 / (2 * cfg.tau_neg)
        self.loss = CACRLoss(
            cfg.tau_pos, cfg.tau_neg, cfg.alpha, cfg.beta, cfg.weighting, cfg.detach_weights,
            cfg.tau_plus, cfg.cost, cfg.rbf_t, gather=cfg.gather, backend=cfg.loss_backend,
        )  # fmt: skip

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """``loss`` and, for CACR, its two terms.

        Args:
            views: (V, B, D) raw embeddings.
        """
        if self.infonce:
            return {"loss": self.multi_view_infonce(views)}
        terms, kernel = self.loss.terms(views), self.loss.kernel
        return cacr_terms(mean_loss(terms.attraction, kernel), mean_loss(terms.repulsion, kernel))

    def multi_view_infonce(self, views: Tensor) -> Tensor:
        """2 tau * mean over view pairs of the symmetric InfoNCE loss."""
        z, kernel = self.loss.prepare(views), self.loss.kernel
        pairs = [
            clip(x, y, 1 / self.temperature, **kernel).loss for x, y in itertools.combinations(z, 2)
        ]
        return 2 * self.temperature * torch.stack(pairs).mean()


class QueueObjective(PairLoss):
    """Queries of all views against momentum keys and a queue; see `cacr_queue`.

    Source: Zheng et al. 2023, section 5.3 and released code, arXiv 2105.03746.

    Args:
        cfg: the method section.

    Distributed: gathers in-batch negatives (local if ``gather=False``); a queue is never gathered.
    """

    def __init__(self, cfg: MethodConfig) -> None:
        super().__init__(gather=cfg.gather, backend=cfg.loss_backend)
        self.tau_pos, self.tau_neg, self.alpha, self.beta = (
            cfg.tau_pos, cfg.tau_neg, cfg.alpha, cfg.beta,
        )  # fmt: skip
        self.in_batch, self.cached = cfg.in_batch_negatives, cfg.replicate_cached_queue_bug

    def forward(self, queries: Tensor, keys: Tensor, queue: Tensor) -> dict[str, Tensor]:
        """Loss and its two terms.

        Args:
            queries: (V, B, D) raw online embeddings.
            keys: (V, B, D) raw momentum embeddings of the same views.
            queue: (Q, D) unit keys of earlier batches.
        """
        terms = cacr_queue(
            self.prepare(queries), self.prepare(keys), queue, self.tau_pos, self.tau_neg,
            alpha=self.alpha, beta=self.beta, in_batch=self.in_batch,
            reuse_first_view=self.cached, **self.kernel,
        )  # fmt: skip
        pulled, pushed = (mean_loss(x, self.kernel) for x in (terms.attraction, terms.repulsion))
        return cacr_terms(pulled, pushed)


class MomentumObjective(PairLoss):
    """Every momentum key against the predictions from all other views; see `cacr_momentum`.

    With two views and the RBF cost each key has one query, its weight is 1, and the loss is half of
    MoCo v3's. The weights matter with local crops or more views.

    Source: Zheng et al. 2023, section 5.4 and released code, arXiv 2105.03746.

    Args:
        cfg: the method section.

    Distributed: gathers negatives (local if ``gather=False``).
    """

    def __init__(self, cfg: MethodConfig) -> None:
        super().__init__(gather=cfg.gather, backend=cfg.loss_backend)
        self.temperature, self.cost, self.sum = cfg.temperature, cfg.cost, cfg.reduction == "sum"

    def forward(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean over keys of their loss.

        Args:
            queries: predictions of every view, (B, D) raw each.
            keys: momentum embeddings of the first views, in the order of `queries`.
        """
        q, losses = self.prepare(torch.stack(list(queries))), []
        for index, key in enumerate(keys):
            others = torch.cat([q[:index], q[index + 1 :]])
            out = cacr_momentum(
                others, self.prepare(key), self.temperature, cost=self.cost, **self.kernel
            )
            losses.append(out.loss)
        loss = torch.stack(losses).mean()
        return {"loss": loss * len(keys[0]) if self.sum else loss}


def cacr_terms(attraction: Tensor, repulsion: Tensor) -> dict[str, Tensor]:
    """Loss and terms under the names that are logged."""
    return {
        "loss": attraction + repulsion,
        "attraction": attraction.detach(),
        "repulsion": repulsion.detach(),
    }


def momentum_at(progress: float, start: float) -> float:
    """Momentum of the key encoder that rises to 1 with half a cosine.

        m = 1 - (1 - start) (1 + cos(pi * progress)) / 2

    Source: Chen et al. 2021 (MoCo v3), released code, arXiv 2104.02057.

    Args:
        progress: share of training that is done, in [0, 1].
        start: momentum of the first step.

    >>> momentum_at(0.0, 0.99), momentum_at(1.0, 0.99)
    (0.99, 1.0)
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2
