"""SimCTG's objective: likelihood, and states of different tokens held apart.

Legend: B lines, L tokens, D hidden size, V vocabulary.
"""

from torch import Tensor, nn

from common.losses.auxiliary.tokens import labelled_token_loss, token_margin_contrastive


class SimCTGObjective(nn.Module):
    """Mean cross-entropy of the next token plus the token contrastive loss, with equal weights.

        L = L_MLE + L_CL                                                        Eq. 4

    Source: Su et al. 2022, "A Contrastive Framework for Neural Text Generation", equations 2 to 4,
    arXiv 2202.06417; Su & Collier 2023, section 6, arXiv 2210.14140.

    Args:
        margin: rho of L_CL; 0 switches it off.

    Distributed: reduces statistics (numbers of tokens and of pairs).
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, logits: Tensor, states: Tensor, targets: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Loss and its terms.

        Args:
            logits: (B, L, V) of the token after each input.
            states: (B, L, D) last hidden states of the inputs.
            targets: (B, L) int64, -100 where nothing follows.
            mask: (B, L), nonzero at inputs that are no padding.

        Returns:
            ``loss``, ``mle`` and ``contrastive``, scalars.
        """
        mle = labelled_token_loss(logits, targets)  # Eq. 2
        contrastive = token_margin_contrastive(states, mask, self.margin)  # Eq. 3
        return {"loss": mle + contrastive, "mle": mle, "contrastive": contrastive}  # Eq. 4
