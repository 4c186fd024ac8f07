"""Encoders of the paper's three scales, and the projector on them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import MLPHead, Norm, ProjectedEncoder
from common.encoders.image.towers import ConvNet, ImageTower, torchvision_tower
from common.encoders.pretrained import check_choice

CONV_WIDTHS = (96, 192, 384, 384, 192)
POOLED = (0, 1, 4)  # convolutions that are followed by a max pooling


class SmallAlexNet(nn.Module):
    """Five 3x3 convolutions and two wide linear layers, batch norm after each.

    Source: Wang and Isola 2020 (small AlexNet of the CIFAR and STL-10 experiments),
    arXiv 2005.10242; Zheng et al. 2023, section 5.1, arXiv 2105.03746.

    Args:
        image_size: side of the input in pixels, at least 15.
        width: of both linear layers; the second one's output is the feature (fc7).

    Raises:
        UserError: images that are too small for three poolings.
    """

    def __init__(self, image_size: int = 32, width: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(
            zip((3, *CONV_WIDTHS[:-1]), CONV_WIDTHS, strict=True)
        ):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
            if index in POOLED:
                layers.append(nn.MaxPool2d(3, 2))
                image_size = (image_size - 3) // 2 + 1
        if image_size < 1:
            raise UserError("model.backbone=small_alexnet needs data.image_size >= 15")
        layers.append(nn.Flatten())
        for fan_in in (CONV_WIDTHS[-1] * image_size**2, width):
            layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width)]
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self.num_features = width

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, image_size, image_size) -> features (B, width)."""
        features: Tensor = self.layers(images)
        return features


Encoder = ConvNet | SmallAlexNet | ImageTower


def build_network(
    backbone: str,
    widths: Sequence[int],
    image_size: int,
    cifar_stem: bool,
    freeze_patch_embed: bool,
    projector: Sequence[int],
    out_dim: int,
    head_norm: Norm,
    projector_last_norm: bool,
) -> ProjectedEncoder:
    """Network of the config's values; also rebuilds an exported one.

    Raises:
        UserError: an unknown backbone, or `freeze_patch_embed` for one without patches.
    """
    encoder = build_encoder(backbone, widths, image_size, cifar_stem)
    if freeze_patch_embed:
        patch_embed = getattr(getattr(encoder, "backbone", None), "patch_embed", None)
        if patch_embed is None:
            raise UserError(f"model.freeze_patch_embed needs a ViT of timm, got {backbone}")
        patch_embed.requires_grad_(False)
    head = MLPHead(
        encoder.num_features, projector, out_dim,
        norm=head_norm, last_norm=projector_last_norm, last_affine=False,
    )  # fmt: skip
    network = ProjectedEncoder(encoder, head)
    if backbone == "small_alexnet":
        initialise(network)
    return network


def build_encoder(
    backbone: str, widths: Sequence[int], image_size: int, cifar_stem: bool
) -> Encoder:
    """The encoder alone; ViTs of timm also take crops of other sizes."""
    if backbone == "convnet":
        return ConvNet(widths)
    if backbone == "small_alexnet":
        return SmallAlexNet(image_size)
    if not backbone.startswith("timm/"):
        return torchvision_tower(backbone, cifar_stem=cifar_stem)
    import timm

    name = backbone.removeprefix("timm/")
    check_choice(name, timm.list_models(), "timm model")
    options: dict[str, Any] = {}
    if "vit" in name:
        options = {"img_size": image_size, "dynamic_img_size": True}
    model: Any = timm.create_model(name, num_classes=0, **options)
    return ImageTower(model, model.num_features)


def initialise(network: nn.Module, std: float = 0.02) -> None:
    """Weights N(0, std), biases 0; batch norm keeps scale 1 and shift 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
