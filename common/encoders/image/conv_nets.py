"""Convolutional encoders of the papers that are in neither torchvision nor timm."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from common.config import UserError

ALEXNET_WIDTHS = (96, 192, 384, 384, 192)
ALEXNET_POOLED = (0, 1, 4)  # convolutions that are followed by a max pooling
SPRITE_WIDTHS = (1, 512, 256, 128, 64, 32)


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
        for index, (fan_in, fan_out) in enumerate(pairwise((3, *ALEXNET_WIDTHS))):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(fan_out), nn.ReLU(inplace=True)]
            if index in ALEXNET_POOLED:
                layers.append(nn.MaxPool2d(3, 2))
                image_size = (image_size - 3) // 2 + 1
        if image_size < 1:
            raise UserError("model.backbone=small_alexnet needs data.image_size >= 15")
        layers.append(nn.Flatten())
        for fan_in in (ALEXNET_WIDTHS[-1] * image_size**2, width):
            layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width)]
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self.num_features = width

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, image_size, image_size) -> features (B, width)."""
        features: Tensor = self.layers(images)
        return features


def normal_init(network: nn.Module, std: float = 0.02) -> None:
    """Weights N(0, std), biases 0; batch norm keeps scale 1 and shift 0.

    Source: Wang and Isola 2020 (small AlexNet), released code, arXiv 2005.10242.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SpriteNet(nn.Module):
    """Five 4x4 convolutions of stride 2 on the first channel of 64-px images -> (B, 128).

    Source: Louiset et al. 2024 (dSprites experiments), arXiv 2402.11928.
    """

    num_features = 128

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, width in pairwise(SPRITE_WIDTHS):
            layers += [nn.Conv2d(fan_in, width, 4, stride=2, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) with equal channels -> (B, 128)."""
        features: Tensor = self.layers(images[:, :1])
        return features


class PooledConvNet(nn.Module):
    """3x3 convolutions with batch norm, ReLU and 2x2 max pooling, then global average pooling.

    Args:
        widths: output channels of each stage.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, width in pairwise((3, *widths)):
            layers += [nn.Conv2d(fan_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*layers)
        self.num_features = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, widths[-1])."""
        features: Tensor = self.stages(images).mean((2, 3))
        return features


class ConvNet3d(nn.Module):
    """Strided 3x3x3 convolutions with batch norm and ReLU, then global average pooling.

    Args:
        widths: output channels of each stage.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, width in pairwise((1, *widths)):
            layers += [nn.Conv3d(fan_in, width, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm3d(width), nn.ReLU(inplace=True)]
        self.stages = nn.Sequential(*layers)
        self.num_features = widths[-1]

    def forward(self, volumes: Tensor) -> Tensor:
        """(B, 1, S, S, S) -> (B, widths[-1])."""
        features: Tensor = self.stages(volumes).mean((2, 3, 4))
        return features
