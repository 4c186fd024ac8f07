"""The thin ResNets of the CIFAR experiments: three stages of 16, 32 and 64 channels."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained
from common.encoders.state_dict import load_state, read_state_dict

WEIGHTS = "model.safetensors"


class _Block(nn.Module):
    """Two 3x3 convolutions; if the shape changes, the shortcut skips pixels and pads channels."""

    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - fan_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:  # option A: no parameters
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


def _stage(fan_in: int, width: int, blocks: int) -> nn.Sequential:
    first = _Block(fan_in, width, 1 if fan_in == width else 2)
    return nn.Sequential(first, *(_Block(width, width, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """6n + 2 layers for 32-px images, with shortcuts without parameters (option A).

    Source: He et al. 2016, section 4.2, arXiv 1512.03385.

    Args:
        depth: 6n + 2: 20, 32, 44, 56 or 110.
        num_classes: of the classifier, which `forward` doesn't use.

    Raises:
        UserError: another depth.
    """

    num_features = 64

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise UserError(f"a CIFAR ResNet has 6n + 2 layers (20, 32, 56, ...), not {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), ImageNet mean and deviation -> features (B, 64), all >= 0."""
        x = F.relu(self.bn1(self.conv1(images)))
        features: Tensor = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> class scores (B, num_classes) of the trained classifier."""
        scores: Tensor = self.linear(self(images))
        return scores


class EarlyStages(nn.Module):
    """The first two stages of a CIFAR ResNet: textures and parts, not yet the trained classes.

    Features are channel means over the four quarters of the map.

    Args:
        network: trained or not; its last stage and classifier are left out.
    """

    num_features = 4 * 32

    def __init__(self, network: CifarResNet) -> None:
        super().__init__()
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.layer1, self.layer2 = network.layer1, network.layer2

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), ImageNet mean and deviation -> features (B, 128), all >= 0."""
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images)))))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def cifar_resnet(depth: int, pretrained: str = "random") -> CifarResNet:
    """Build a network, with weights if some are named.

    Args:
        depth: see `CifarResNet`.
        pretrained: "random", ``bundled:cifar-resnet20``, a file, or a folder with
            ``model.safetensors``.

    Raises:
        UserError: another depth, absent weights, or those of another network.
    """
    ref = resolve_pretrained(pretrained)
    network = CifarResNet(depth)
    if ref.kind == "random":
        return network
    if ref.path is None:
        raise UserError(f"a CIFAR ResNet cannot take pretrained={pretrained!r}: give a file")
    path: Path = ref.path / WEIGHTS if ref.kind == "folder" else ref.path
    load_state(network, _without_counters(read_state_dict(path), network), source=str(path))
    return network


def _without_counters(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state with the batch counters of batch norm, which older files lack."""
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    return {name: torch.zeros_like(v) for name, v in counters.items()} | state
