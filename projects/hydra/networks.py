"""Encoder, projector, gate and online classifier of a config, also from an exported folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.image.towers import ConvNet, ImageTower, timm_tower
from common.encoders.pretrained import check_choice
from common.encoders.state_dict import load_state
from common.engine.optim import decay_groups
from common.export.safetensors import load_safetensors
from projects.hydra.config import Config, GateConfig
from projects.hydra.gates import build_gate

Encoder = ConvNet | ImageTower


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
        nn.Linear(in_dim, hidden_dim),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim, bias=False),
        nn.LayerNorm(out_dim),
    )


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
        renormalise: similarities are cosines inside the subspace, as they were trained.
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
        renormalise: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes, self.renormalise = num_classes, renormalise
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
        gate = self.gate(labels_1, labels_2)
        first, second = (F.normalize(self(x)[1], dim=1) * gate for x in (images_1, images_2))
        if self.renormalise:
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        return torch.sum(first * second, dim=1)

    def take_encoder(
        self, other: "HydraNet", parts: Sequence[str] = ("encoder", "projector")
    ) -> None:
        """Copy the weights of these parts from another network."""
        for name in parts:
            load_state(getattr(self, name), getattr(other, name).state_dict(), source=name)


def network_options(cfg: Config) -> dict[str, Any]:
    """Arguments of `HydraNet`, without the place of pretrained weights.

    Parts that the objective does not use are left out.
    """
    model, objective = cfg.model, cfg.method.objective
    return {
        "num_classes": cfg.data.num_classes,
        "backbone": model.backbone,
        "widths": list(model.widths),
        "image_size": cfg.data.image_size,
        "stem_type": model.stem_type,
        "output_stride": model.output_stride,
        "projector_dim": 0 if objective == "cross_entropy" else model.projector_dim,
        "out_dim": model.out_dim,
        "gate": asdict(cfg.gate) if objective == "pairs" else {"type": "open"},
        "head": cfg.online_head.weight > 0,
        "renormalise": cfg.method.renormalise_after_gate,
    }


def build_net(cfg: Config) -> HydraNet:
    """The networks with which training begins."""
    net = HydraNet(**network_options(cfg), pretrained=cfg.model.pretrained)
    if cfg.model.init_from is not None:
        net.take_encoder(load_safetensors(cfg.model.init_from, HydraNet), ("encoder",))
    return net


def layer_decay_groups(
    encoder: nn.Module, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups of a timm model whose learning rate falls from each layer to the one below.

    Source: Clark et al. 2020 (ELECTRA, fine-tuning), arXiv 2003.10555; layers as timm counts them.

    Args:
        encoder: a timm model.
        weight_decay: of all parameters that timm does not exempt: vectors, and what the model's
            ``no_weight_decay`` names.
        layer_decay: factor from one layer to the one below, in (0, 1].
    """
    from timm.optim._param_groups import param_groups_layer_decay

    # position embeddings and class tokens of a transformer; a convolutional network names none
    exempt: Any = getattr(encoder, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        encoder, weight_decay=weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    kept = ("params", "weight_decay", "lr_scale")
    return [{name: group[name] for name in kept} for group in groups]


def layered_groups(
    module: nn.Module, encoder: Encoder, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Optimiser groups of a module whose encoder learns slower towards its input.

    The full rate is that of what lies on top of the encoder: timm counts a classifier as the last
    layer, and the encoder has none.

    Args:
        module: all parameters.
        encoder: its timm model.
        weight_decay: of all parameters that are not exempt.
        layer_decay: factor of the learning rate from one layer to the one below.
    """
    layers = layer_decay_groups(getattr(encoder, "backbone", encoder), weight_decay, layer_decay)
    for group in layers:
        group["lr_scale"] *= layer_decay
    encoder_ids = {id(p) for p in encoder.parameters()}
    rest = [(n, p) for n, p in module.named_parameters() if id(p) not in encoder_ids]
    return layers + decay_groups(rest, weight_decay)


def gated_outputs(network: HydraNet, images: Tensor) -> dict[str, Tensor]:
    """Features and projections of images, and the gates of the first two classes."""
    features, projections = network(images)
    pair = torch.tensor([0, 1], device=features.device)
    gates: Tensor = network.gate(pair, pair.flip(0))
    return {"features": features, "projections": projections, "gates": gates}
