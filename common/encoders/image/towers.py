"""Image towers: torchvision and timm networks without their classifier, and a small conv net."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.config import UserError
from common.encoders.pretrained import check_choice, loading, resolve_pretrained
from common.encoders.state_dict import load_state, read_state_dict


class ConvNet(nn.Module):
    """Strided 3x3 convolutions with batch norm and ReLU, then global average pooling.

    Every stage halves the image; small and fast enough for CPU experiments.

    Args:
        widths: output channels of each stage; the last one is the feature dimension F.
        in_channels: channels of the input.

    Raises:
        ValueError: no stage.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), in_channels: int = 3) -> None:
        super().__init__()
        if not widths:
            raise ValueError("ConvNet needs at least one width")
        layers: list[nn.Module] = []
        for fan_in, width in zip((in_channels, *widths[:-1]), widths, strict=True):
            conv = nn.Conv2d(fan_in, width, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.stages = nn.Sequential(*layers)
        self.num_features = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) -> features (B, widths[-1])."""
        return self.stages(images).mean((2, 3))  # type: ignore[no-any-return]


class ImageTower(nn.Module):
    """A network of torchvision or timm whose forward pass ends before the classifier.

    Args:
        backbone: maps images (B, 3, H, W) to features (B, F).
        num_features: F.
    """

    def __init__(self, backbone: nn.Module, num_features: int) -> None:
        super().__init__()
        self.backbone, self.num_features = backbone, num_features

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalised -> features (B, F)."""
        features: Tensor = self.backbone(images)
        return features


def torchvision_tower(
    name: str,
    pretrained: str = "random",
    *,
    image_size: int | None = None,
    cifar_stem: bool = False,
) -> ImageTower:
    """A torchvision classifier without its last linear layer.

    Args:
        name: e.g. "resnet18", "vit_b_16", "convnext_tiny".
        pretrained: "random", ``torchvision:<name>``, or a local file of the same architecture with
            or without the classifier; those of auxiliary classifiers are left out.
        image_size: of ViTs, a multiple of the patch, other networks take any size; None is
            torchvision's own.
        cifar_stem: ResNets only: a 3x3 stride-1 first convolution and no max pooling, for images
            of 32 px (Chen et al. 2020, appendix B.9, arXiv 2002.05709); excludes torchvision's
            weights.

    Raises:
        UserError: unknown name, absent weights, an image size that they do not have, or a stem that
            does not fit.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    check_choice(name, names, "torchvision model")
    ref = resolve_pretrained(pretrained)
    if ref.kind not in ("random", "torchvision", "file"):
        raise UserError(f"a torchvision tower cannot take pretrained={pretrained!r}")
    if ref.kind == "torchvision" and (ref.name != name or cifar_stem):
        raise UserError(
            f"pretrained={pretrained!r} does not fit {name}{' with cifar_stem' * cifar_stem}"
        )
    weights = "DEFAULT" if ref.kind == "torchvision" else None
    side = image_size if name.startswith("vit_") else None
    if side is not None and side % (patch := int(name.rpartition("_")[2])):
        raise UserError(f"{name} takes images whose side is a multiple of {patch}, not {side}")
    options = {} if side is None or weights is not None else {"image_size": side}
    with loading(ref):
        model: Any = torchvision.models.get_model(name, weights=weights, **options)
    if side is not None and model.image_size != side:
        raise UserError(
            f"pretrained={pretrained!r} is for images of {model.image_size} pixels, not of {side}: "
            "make them equal, or take a ViT of timm, whose position tables are interpolated"
        )
    if cifar_stem:
        _use_cifar_stem(model, name)
    _remove_auxiliary(model)
    num_features = _remove_classifier(model)
    if ref.path is not None:
        _load_backbone(model, ref.path)
    return ImageTower(model, num_features)


def timm_tower(
    name: str,
    pretrained: str = "random",
    *,
    image_size: int | None = None,
    any_size: bool = False,
    cifar_stem: bool = False,
) -> ImageTower:
    """A timm model without its classifier, pooled as timm pools it.

    Args:
        name: e.g. "vit_small_patch16_224" or "resnet50".
        pretrained: "random", ``timm:<name>[.<tag>]`` or a local file.
        image_size: for models with a position table, others take any size; None is timm's own.
        any_size: transformers with a position table also take other sizes, such as local crops, by
            interpolated positions, where timm has that.
        cifar_stem: see `torchvision_tower`; excludes timm's weights.

    Raises:
        UserError: unknown name, absent weights, or a stem that does not fit.
    """
    import timm

    check_choice(name, timm.list_models(), "timm model")
    ref = resolve_pretrained(pretrained)
    if ref.kind not in ("random", "timm", "file"):
        raise UserError(f"a timm tower cannot take pretrained={pretrained!r}")
    if ref.kind == "timm" and (ref.name.partition(".")[0] != name or cifar_stem):
        raise UserError(
            f"pretrained={pretrained!r} does not fit {name}{' with cifar_stem' * cifar_stem}"
        )
    cfg = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {}
    if image_size is not None and cfg is not None and cfg.fixed_input_size:
        options["img_size"] = image_size
    source = ref.name if ref.kind == "timm" else name
    make = partial(
        timm.create_model, source, pretrained=ref.kind == "timm", num_classes=0, **options
    )
    with loading(ref):
        model: Any = _any_size(make) if any_size else make()
    if cifar_stem:
        _use_cifar_stem(model, name)
    if ref.path is not None:
        _load_backbone(model, ref.path)
    # MobileNetV3, VGG and others have layers between the pool and the classifier
    width = getattr(model, "head_hidden_size", None) or model.num_features
    return ImageTower(model, int(width))


def _any_size(make: Callable[..., Any]) -> Any:
    """A timm model, with interpolated positions if its class can (DeiT, but not MobileViT)."""
    try:
        return make(dynamic_img_size=True)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        return make()


def _use_cifar_stem(model: Any, name: str) -> None:
    if not isinstance(getattr(model, "conv1", None), nn.Conv2d) or not hasattr(model, "maxpool"):
        raise UserError(
            f"cifar_stem needs a ResNet with one convolution as its stem, {name} is none: set it to"
            " false"
        )
    width = model.conv1.out_channels
    model.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _remove_auxiliary(model: Any) -> None:
    """Remove the auxiliary classifiers of GoogLeNet and Inception, which return tuples."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, name):
            setattr(model, name, None)
    if hasattr(model, "aux_logits"):
        model.aux_logits = False


def _remove_classifier(model: nn.Module) -> int:
    """Replace the last linear layer by the identity; returns its input dimension.

    Raises:
        UserError: there is none, as in SqueezeNet.
    """
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(
            f"{type(model).__name__} has no linear classifier to take off: use another network,"
            " such as resnet18"
        )
    name, layer = linear[-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return layer.in_features


def _load_backbone(model: nn.Module, path: Path) -> None:
    """Load a file; entries of classifiers that this tower does not have are left out."""
    state = read_state_dict(path)
    heads = ("fc.", "head.", "heads.", "classifier.", "aux1.", "aux2.", "AuxLogits.")
    current = model.state_dict()
    kept = {k: v for k, v in state.items() if k in current or not k.startswith(heads)}
    load_state(model, kept, source=str(path))
