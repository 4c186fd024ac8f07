"""The two objectives: representative words prediction, and masked words."""

from torch import Tensor, nn

from common.losses.auxiliary.tokens import masked_lm_loss
from common.losses.functional.ranking import ranking_loss
from common.losses.output import LossOutput
from projects.b_prop.config import MethodConfig


def rop_loss(scores: Tensor, score_norm: str = "softmax", margin: float = 1.0) -> LossOutput:
    """Representative words prediction: the more likely word set should score higher.

        L_ROP = mean max(0, 1 - s+ + s-)

    on raw scores (the text), or on their softmax over the pair (the released code), where it is 2
    p-.

    Source: Ma et al. 2021, "B-PROP", section 4.4, arXiv 2104.09791; "PROP", section 3.2,
    arXiv 2010.10137.

    Args:
        scores: (P, 2), of the set with the higher likelihood and of the other.
        score_norm: "softmax" or "raw".
        margin: >= 0.

    Distributed: local; ranks hold equally many pairs, so the mean over ranks is that over pairs.
    """
    return ranking_loss(scores, "softmax_hinge" if score_norm == "softmax" else "hinge", margin)


class Objective(nn.Module):
    """L = L_ROP + L_MLM, each with weight 1; either can be left out.

    Source: Ma et al. 2021, "B-PROP", section 4.4, arXiv 2104.09791.

    Args:
        method: section of the config.

    Distributed: the masked words of all ranks form one mean.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.method = method

    def forward(
        self, scores: Tensor, head: nn.Module | None, states: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Terms of a batch of P pairs.

        Args:
            scores: (2 P,), positive and negative of a pair side by side.
            head: states -> logits over the vocabulary; None without masked words.
            states: (2 P, L, D).
            labels: (2 P, L), -100 where nothing is predicted.
        """
        rop = rop_loss(scores.reshape(-1, 2), self.method.score_norm, self.method.margin)
        # without its term the head still belongs to the graph, as all ranks expect
        loss = rop.loss if self.method.rop else 0.0 * scores.sum()  # Eq. ROP
        assert rop.hits is not None
        terms = {"rop": rop.loss, "pair_accuracy": rop.hits.to(scores.dtype).mean()}
        if head is not None:
            terms["mlm"] = masked_lm_loss(head, states, labels)
            loss = loss + terms["mlm"]  # Eq. sum
        return {"loss": loss, **terms}
