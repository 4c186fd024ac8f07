"""Gates: from a pair of classes to the coordinates in which its samples are compared."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from projects.hydra.config import GateConfig


class OpenGate(nn.Module):
    """No filter: every coordinate counts fully.

    Args:
        num_classes: C; labels are not looked at.
        out_dim: D.
    """

    def __init__(self, num_classes: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim

    def forward(self, labels: Tensor, partner_labels: Tensor) -> Tensor:
        """Ones (B, D)."""
        return torch.ones(len(labels), self.out_dim, device=labels.device)

    def penalty(self, gate: Tensor) -> Tensor:
        """Added to the loss; here 0."""
        return gate.new_zeros(())


class BasicGate(OpenGate):
    """g(y1, y2) = sigmoid(MLP((E[y1] + E[y2]) / 2)), or the product of two gates.

    Source: Wu et al. 2024, "Rethinking Positive Pairs in Contrastive Learning", arXiv 2410.18200,
    released code.

    Args:
        num_classes: C.
        out_dim: D.
        in_dim: label embedding.
        mlp_dim: hidden width.
        fuse: one gate of the mean embedding; False: g(y1) * g(y2).
        penalty_weight: of the mean binary entropy of the gates, which pushes them to 0 or 1.
    """

    def __init__(
        self,
        num_classes: int,
        out_dim: int,
        in_dim: int = 512,
        mlp_dim: int = 1024,
        fuse: bool = True,
        penalty_weight: float = 0.0,
    ) -> None:
        super().__init__(num_classes, out_dim)
        self.label_embedding = nn.Embedding(num_classes, in_dim)
        self.mlp = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(in_dim),
            nn.Linear(in_dim, mlp_dim),
            nn.ReLU(),
            nn.BatchNorm1d(mlp_dim),
            nn.Linear(mlp_dim, out_dim),
        )
        self.fuse, self.penalty_weight = fuse, penalty_weight

    def forward(self, labels: Tensor, partner_labels: Tensor) -> Tensor:
        """Gates of class pairs.

        Args:
            labels: (B,) int64 in [0, C).
            partner_labels: (B,) int64 in [0, C); exchanging both changes nothing.

        Returns:
            (B, D) in (0, 1) (stochastic gates: [0, 1]).
        """
        first, second = self.label_embedding(labels), self.label_embedding(partner_labels)
        if self.fuse:
            return self.open(self.mlp((first + second) / 2))
        # One pass, so that the batch statistics do not depend on the order of the pair.
        gates = self.open(self.mlp(torch.cat([first, second])))
        return gates[: len(labels)] * gates[len(labels) :]

    def open(self, logits: Tensor) -> Tensor:
        """From the MLP's output to gates."""
        return torch.sigmoid(logits)

    def penalty(self, gate: Tensor) -> Tensor:
        """Weighted mean entropy of the gates as Bernoulli probabilities."""
        if self.penalty_weight == 0:
            return gate.new_zeros(())
        gate = gate.clamp(1e-6, 1 - 1e-6)  # the entropy's gradient is infinite at 0 and 1
        return self.penalty_weight * bernoulli_entropy(gate).mean()


class GumbelGate(BasicGate):
    """Relaxed Bernoulli gates: sigmoid((logit + Gumbel noise) / temperature).

    Without noise in eval mode.

    Source: released code of arXiv 2410.18200, one-sided noise as there (a relaxed Bernoulli of
    Maddison et al. 2017, arXiv 1611.00712, has the difference of two Gumbel variables).
    """

    def __init__(self, *args: Any, temperature: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.temperature = temperature

    def open(self, logits: Tensor) -> Tensor:
        """See the class."""
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()  # + Gumbel(0, 1)
        return (logits / self.temperature).sigmoid()


class StochasticGate(BasicGate):
    """clip(mu + 0.5 + sigma * noise, 0, 1), penalised by the expected number of open gates.

    Source: Yamada et al. 2020, "Feature Selection using Stochastic Gates", eq. 4 and 7,
    arXiv 1810.04247; sigma and weight of the released code of arXiv 2410.18200.
    """

    def __init__(
        self, *args: Any, sigma: float = 0.5, open_penalty: float = 1e-6, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.sigma, self.open_penalty = sigma, open_penalty
        self._expected_open: Tensor | None = None

    def open(self, logits: Tensor) -> Tensor:
        """See the class; without noise in eval mode."""
        probability = 0.5 * (1 + torch.erf((logits + 0.5) / (self.sigma * math.sqrt(2))))
        self._expected_open = probability.sum(dim=1).mean()
        noise = self.sigma * torch.randn_like(logits) if self.training else 0.0
        return torch.clamp(logits + 0.5 + noise, 0, 1)

    def penalty(self, gate: Tensor) -> Tensor:
        """Weighted expected number of open gates of the last forward pass."""
        assert self._expected_open is not None
        return torch.mul(self._expected_open, self.open_penalty)


def bernoulli_entropy(gate: Tensor) -> Tensor:
    """Entropy in nats of each gate as a probability; 0 at 0 and 1."""
    return torch.add(torch.special.entr(gate), torch.special.entr(1 - gate))


def build_gate(cfg: GateConfig, num_classes: int, out_dim: int) -> OpenGate:
    """The gate of a config."""
    if cfg.type == "open":
        return OpenGate(num_classes, out_dim)
    options: dict[str, Any] = {
        "in_dim": cfg.in_dim,
        "mlp_dim": cfg.mlp_dim,
        "fuse": cfg.fuse,
        "penalty_weight": cfg.penalty,
    }
    if cfg.type == "gumbel":
        return GumbelGate(num_classes, out_dim, temperature=cfg.temperature, **options)
    if cfg.type == "stochastic":
        options |= {"sigma": cfg.sigma, "open_penalty": cfg.open_penalty}
        return StochasticGate(num_classes, out_dim, **options)
    return BasicGate(num_classes, out_dim, **options)
