"""Projections from CLIP's joint space to a pseudo word (textual inversion by a network, phi)."""

import itertools
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

PhiKind = Literal["gelu", "relu"]


class GeluPhi(nn.Module):
    """phi of SEARLE and LinCIR: three linear layers with GELU and dropout.

    Source: Baldrati et al. 2023 (SEARLE), arXiv 2303.15247; Gu et al. 2024 (LinCIR), arXiv
    2312.01998; the names of parameters are those of their released checkpoints.

    Args:
        in_dim: P, dimension of the joint space.
        out_dim: width of the text tower.
        hidden_dim: None: 4P.
        dropout: probability after each of the two hidden layers.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden_dim: int | None = None, dropout: float = 0.5
    ) -> None:
        super().__init__()
        hidden = hidden_dim or 4 * in_dim
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_dim),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P), not normalised -> pseudo words (B, out_dim)."""
        words: Tensor = self.layers(embeddings)
        return words


class ReluPhi(nn.Module):
    """phi of Pic2Word: hidden layers of 512 with dropout before ReLU, and a linear map.

    Source: Saito et al. 2023 (Pic2Word), arXiv 2302.03084; names as in its released checkpoint.

    Args:
        in_dim: P, dimension of the joint space.
        out_dim: width of the text tower.
        hidden_dim: None: 512.
        num_layers: hidden layers.
        dropout: probability after each linear map of a hidden layer.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        hidden = hidden_dim or 512
        sizes = [in_dim, *[hidden] * num_layers]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(a, b), nn.Dropout(dropout), nn.ReLU())
                for a, b in itertools.pairwise(sizes)
            )
        )
        self.fc_out = nn.Linear(hidden, out_dim)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, P), not normalised -> pseudo words (B, out_dim)."""
        words: Tensor = self.fc_out(self.layers(embeddings))
        return words


def build_phi(
    kind: PhiKind,
    in_dim: int,
    out_dim: int,
    *,
    hidden_dim: int | None = None,
    dropout: float | None = None,
) -> GeluPhi | ReluPhi:
    """A projection by its kind; None takes the paper's own size or probability."""
    if kind == "relu":
        return ReluPhi(in_dim, out_dim, hidden_dim, 0.1 if dropout is None else dropout)
    return GeluPhi(in_dim, out_dim, hidden_dim, 0.5 if dropout is None else dropout)


def phi_state(state: Mapping[str, Tensor]) -> tuple[PhiKind, dict[str, Tensor]]:
    """Kind and state of a released checkpoint, whatever its names begin with.

    >>> phi_state({"module.fc_out.weight": Tensor(), "module.layers.0.0.weight": Tensor()})[0]
    'relu'
    """
    weights = {}
    for name, tensor in state.items():
        at = max(name.find("layers."), name.find("fc_out."))
        if at >= 0:
            weights[name[at:]] = tensor
    return ("relu" if "fc_out.weight" in weights else "gelu"), weights
