"""Further losses of a learned router: balance, and what it knows of domains."""

from collections.abc import Sequence

from torch import Tensor, nn

from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import all_gather_with_grad
from projects.moe_embeddings.config import MethodConfig
from projects.moe_embeddings.encoder import Layout
from projects.moe_embeddings.routing_losses import (
    AccumulatedInformation,
    load_balancing,
    router_information,
    specified_expert,
)


class RouterLosses(nn.Module):
    """Weighted losses of the router logits of a pass, by name.

        w_B * N sum_e p_e f_e,   and   -w_E I(domain; expert)   or   w_E CE(mean logits, domain)

    Source: Hallee et al. 2024, section "Routing", arXiv 2401.15713, and released code.

    Args:
        method: section of the config.
        layout: of the encoder.

    Attributes:
        information: the table that grows over training; None unless ``method.detached_mi``.

    Distributed: gathers logits and domains (local if not ``method.gather``).
    """

    def __init__(self, method: MethodConfig, layout: Layout) -> None:
        super().__init__()
        self.method, self.kinds = method, len(layout.domains)
        self.information: AccumulatedInformation | None = None
        if method.router_loss == "mutual_information" and method.detached_mi:
            self.information = AccumulatedInformation(self.kinds, layout.num_experts, layout.top_k)

    def forward(self, logits: Sequence[Tensor], domain: Tensor) -> dict[str, Tensor]:
        """Losses of documents.

        Args:
            logits: of each layer with a router, (B, E).
            domain: (B,) int64.
        """
        method, terms = self.method, dict[str, Tensor]()
        if method.gather:
            logits, domain = [all_gather_with_grad(x) for x in logits], all_gather_no_grad(domain)
        if method.balance_weight:
            terms["balance"] = method.balance_weight * load_balancing(logits)
        if method.router_loss == "specified":
            terms["specified"] = method.router_weight * specified_expert(logits, domain)
        elif self.information is not None:
            terms["information"] = method.router_weight * self.information(logits, domain)
        elif method.router_loss == "mutual_information":
            information = router_information(logits, domain, self.kinds)
            terms["information"] = -method.router_weight * information
        return terms
