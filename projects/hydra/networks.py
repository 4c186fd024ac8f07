"""Encoder, projector and the gates that map a pair of classes to a subspace."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.image.towers import ConvNet, ImageTower, timm_tower
from common.encoders.pretrained import check_choice
from common.encoders.state_dict import load_state
from projects.hydra.config import GateConfig

Encoder = ConvNet | ImageTower


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
            nn.ReLU(), nn.BatchNorm1d(in_dim), nn.Linear(in_dim, mlp_dim),
            nn.ReLU(), nn.BatchNorm1d(mlp_dim), nn.Linear(mlp_dim, out_dim),
        )  # fmt: skip
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
    """Relaxed Bernoulli gates: sigmoid((logit + Gumbel noise) / tau); without noise in eval mode.

    Source: released code of arXiv 2410.18200, one-sided noise as there (a relaxed Bernoulli of
    Maddison et al. 2017, arXiv 1611.00712, has the difference of two Gumbel variables).
    """

    def __init__(self, *args: Any, tau: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tau = tau

    def open(self, logits: Tensor) -> Tensor:
        """See the class."""
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()  # + Gumbel(0, 1)
        return (logits / self.tau).sigmoid()


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
        return GumbelGate(num_classes, out_dim, tau=cfg.tau, **options)
    if cfg.type == "stochastic":
        options |= {"sigma": cfg.sigma, "open_penalty": cfg.open_penalty}
        return StochasticGate(num_classes, out_dim, **options)
    return BasicGate(num_classes, out_dim, **options)


def build_backbone(
    backbone: str,
    widths: Sequence[int],
    pretrained: str,
    image_size: int | None,
    stem_type: str | None,
    output_stride: int | None,
) -> Encoder:
    """Image encoder with `num_features`: the small conv net or a timm model.

    Raises:
        UserError: unknown name, or weights for a ResNet with another stem or stride.
    """
    if backbone == "convnet":
        return ConvNet(widths)
    options = {"stem_type": stem_type, "output_stride": output_stride}
    changed: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not changed:
        return timm_tower(backbone, pretrained, image_size=image_size)
    import timm

    check_choice(backbone, timm.list_models(), "timm model")
    if pretrained != "random" or "resnet" not in backbone:
        raise UserError(
            f"model.{' and model.'.join(changed)} need a ResNet from scratch, got "
            f"backbone={backbone} pretrained={pretrained}"
        )
    model: Any = timm.create_model(backbone, num_classes=0, **changed)
    return ImageTower(model, model.num_features)


def build_projector(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear without bias, layer norm."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False), nn.LayerNorm(out_dim),
    )  # fmt: skip


class HydraNet(nn.Module):
    """What is trained and exported: encoder, projector, gate, online classifier.

    Args:
        num_classes: C.
        backbone: see `ModelConfig`; so are the following.
        widths: of the conv net.
        pretrained: weights of the encoder.
        image_size: input in pixels.
        stem_type: of a timm ResNet.
        output_stride: of a timm ResNet.
        projector_dim: hidden width; 0 builds no projector, so that features are compared.
        out_dim: D, without projector the feature dimension.
        gate: fields of `GateConfig`.
        head: whether there is an online classifier.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "convnet",
        widths: Sequence[int] = (24, 48, 128),
        pretrained: str = "random",
        image_size: int | None = None,
        stem_type: str | None = None,
        output_stride: int | None = None,
        projector_dim: int = 2048,
        out_dim: int = 256,
        gate: Mapping[str, Any] | None = None,
        head: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.options: dict[str, Any] = {
            "num_classes": num_classes, "backbone": backbone, "widths": list(widths),
            "pretrained": "random", "image_size": image_size, "stem_type": stem_type,
            "output_stride": output_stride, "projector_dim": projector_dim, "out_dim": out_dim,
            "gate": dict(gate or {}), "head": head,
        }  # fmt: skip
        self.encoder: Encoder = build_backbone(
            backbone, widths, pretrained, image_size, stem_type, output_stride
        )
        features: int = self.encoder.num_features
        self.projector: nn.Module = nn.Identity()
        if projector_dim:
            self.projector = build_projector(features, projector_dim, out_dim)
        width = out_dim if projector_dim else features
        self.gate = build_gate(GateConfig(**(gate or {})), num_classes, width)
        self.head = nn.Linear(features, num_classes) if head else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised -> features (B, F) and projections (B, D)."""
        features: Tensor = self.encoder(images)
        return features, self.projector(features)

    def similarity(
        self, images_1: Tensor, images_2: Tensor, labels_1: Tensor, labels_2: Tensor
    ) -> Tensor:
        """Gated similarity (B,) of two images in the subspace of their classes.

        Args:
            images_1: (B, 3, H, W), normalised.
            images_2: (B, 3, H, W), normalised.
            labels_1: (B,) int64.
            labels_2: (B,) int64.
        """
        first, second = (F.normalize(self(x)[1], dim=1) for x in (images_1, images_2))
        gate = self.gate(labels_1, labels_2)
        return torch.sum(first * gate.square() * second, dim=1)

    def take_encoder(
        self, other: "HydraNet", parts: Sequence[str] = ("encoder", "projector")
    ) -> None:
        """Copy the weights of these parts from another network."""
        for name in parts:
            load_state(getattr(self, name), getattr(other, name).state_dict(), source=name)
