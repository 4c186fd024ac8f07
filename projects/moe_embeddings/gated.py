"""The block of the 2024 preprint: norm before the experts, a residual, a gate that starts at 1."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from projects.moe_embeddings.mixture_of_experts import FeedForward, MixtureOfExperts, copies

Install = Callable[[FeedForward, Callable[[Sequence[nn.Module]], MixtureOfExperts]], None]


class GatedExpert(nn.Module):
    """Dropout(down(GELU(up x) * gate x)), where gate x is 1 at the start.

    Source: released code of Hallee et al. 2024 (May 2024), arXiv 2401.15713.

    Args:
        up: (D) -> (F), pretrained.
        down: (F) -> (D), pretrained.
        dropout: of the output.
    """

    def __init__(self, up: nn.Linear, down: nn.Linear, dropout: float) -> None:
        super().__init__()
        self.up, self.down, self.dropout = up, down, nn.Dropout(dropout)
        self.gate = nn.Linear(up.in_features, up.out_features)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.dropout(self.down(F.gelu(self.up(x)) * self.gate(x)))
        return out


class PreNormResidual(nn.Module):
    """x + mixture(LayerNorm(x)), in place of BERT's ``output`` (whose first argument is x too).

    Args:
        norm: pretrained, of the output of the dense block.
        mixture: of experts.
    """

    def __init__(self, norm: nn.Module, mixture: nn.Module) -> None:
        super().__init__()
        self.norm, self.mixture = norm, mixture

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        out: Tensor = residual + self.mixture(self.norm(hidden))
        return out


def gated_blocks(num_experts: int) -> Install:
    """What `to_mixture` installs: gated experts with the weights of BERT's feed-forward layer.

    BERT normalises after its blocks, so outputs change with the conversion.

    Args:
        num_experts: E.
    """

    def install(
        layer: FeedForward, mixture: Callable[[Sequence[nn.Module]], MixtureOfExperts]
    ) -> None:
        block = layer.block
        if layer.name != "intermediate":
            raise UserError("model.block=gated is for BERT and its relatives: use copy")
        up, out = block.intermediate.dense, block.output  # type: ignore[union-attr]
        expert = GatedExpert(up, out.dense, out.dropout.p)  # type: ignore[arg-type,union-attr]
        block.intermediate = nn.Identity()
        experts = mixture(copies(expert, num_experts))
        block.output = PreNormResidual(out.LayerNorm, experts)  # type: ignore[arg-type,union-attr]

    return install
