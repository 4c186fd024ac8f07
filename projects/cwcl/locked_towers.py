"""Dual encoders whose image tower is given and stays as it is (LiT): build, embed, cache.

A *tower feature* is what the given network says about an image; it never changes, so it can be
computed once (`projects.cwcl.frozen_vectors`). Centring and an optional trainable projection come
after it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.image.by_name import image_encoder
from common.encoders.image.cifar_resnet import EarlyStages, cifar_resnet
from common.encoders.image.towers import ImageTower, timm_tower
from common.encoders.image_text.dual import DualEncoder, Tokenizer
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder, open_clip_dual_encoder
from common.encoders.image_text.text_towers import TEXT_TOWERS
from common.encoders.pretrained import resolve_pretrained
from common.encoders.state_dict import load_state

TextKind = Literal["clip", "bag"]
CIFAR, EARLY = "cifar_resnet", "/early"
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]  # means, deviations


class CentredTower(nn.Module):
    """A tower whose features have a constant subtracted: the mean over the training images.

    Features behind a ReLU are all positive, so that every cosine is large; centred ones differ.

    Args:
        tower: images -> (B, F); has `num_features`.

    Attributes:
        mean: (F,) buffer, zero until it is set.
    """

    mean: Tensor

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.num_features = int(tower.num_features)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(self.num_features))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> centred features (B, F)."""
        features: Tensor = self.tower(images) - self.mean
        return features


LockedEncoder = DualEncoder | OpenClipDualEncoder


def build_locked(
    *,
    open_clip: str | Mapping[str, Any] | None = None,
    vision: str | None = None,
    vision_pretrained: str = "random",
    image_size: int = 224,
    text_tower: TextKind = "clip",
    text: Mapping[str, Any] | None = None,
    projected: bool = False,
    embed_dim: int = 512,
    pretrained: str = "random",
    tokenizer: Tokenizer | None = None,
    normalization: Normalization | None = None,
) -> LockedEncoder:
    """An image tower with its own weights, and a text tower with one linear map to its width.

    Args:
        open_clip: an open_clip model in place of `vision`, see `OpenClipDualEncoder`; its whole
            image side is the tower.
        vision: ``cifar_resnet<depth>``, ``cifar_resnet<depth>/early`` (two stages), ``timm/<model>``, or a torchvision model.
        vision_pretrained: weights of the image tower alone; with an open_clip model of a timm image
            tower those of timm.
        image_size: side of the input in pixels.
        text_tower: "clip", a transformer, or "bag", the mean of word vectors.
        text: keyword arguments of the text tower.
        projected: a linear map on the image side too; False keeps the tower's own space.
        embed_dim: dimension of the joint space, with `projected`.
        pretrained: of a whole open_clip model.
        tokenizer: texts -> ids.
        normalization: channel means and deviations of the images; where the weights of timm, of
            torchvision or of a whole open_clip model (not of a plain file) learnt with others, see
            `fold_normalization`. None: images come as the weights want them.

    Raises:
        UserError: unknown names, absent weights, sizes that a text tower doesn't take, or weights
            that want another normalisation and cannot have it.

    Source: Zhai et al. 2022 (LiT), arXiv 2111.07991.
    """
    if vision is None:
        encoder = open_clip_dual_encoder(open_clip, pretrained, tokenizer)
        if vision_pretrained != "random":
            _load_trunk(encoder, vision_pretrained, image_size, normalization)
        elif (ref := resolve_pretrained(pretrained)).kind == "folder" or ref.tag is not None:
            _whole_as_trained(encoder, normalization)
        return encoder
    tower = image_tower(vision, vision_pretrained, image_size)
    _as_trained(tower, vision_pretrained, normalization)
    try:
        words = TEXT_TOWERS[text_tower](**(text or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"text tower: {error}") from error
    image = CentredTower(tower)
    width = embed_dim if projected else image.num_features
    projection = None if projected else nn.Identity()
    return DualEncoder(image, words, width, tokenizer=tokenizer, image_proj=projection)


def image_tower(name: str, pretrained: str, image_size: int) -> nn.Module:
    """The given network, images (B, 3, H, W) -> (B, num_features)."""
    depth = name.removeprefix(CIFAR).removesuffix(EARLY)
    if name.startswith(CIFAR) and depth.isdigit():
        network = cifar_resnet(int(depth), pretrained)
        return EarlyStages(network) if name.endswith(EARLY) else network
    if name == "convnet":  # small enough to be trained from scratch, for the CLIP baseline
        return image_encoder(name, widths=(32, 64, 128, 64), pretrained=pretrained)
    return image_encoder(name, image_size=image_size, pretrained=pretrained)


def given_part(encoder: LockedEncoder) -> nn.Module:
    """The image tower: what is locked."""
    if isinstance(encoder, OpenClipDualEncoder):
        visual: nn.Module = encoder.model.visual
        return visual
    return encoder.image_tower


def tower_features(encoder: LockedEncoder, images: Tensor) -> Tensor:
    """What the given tower says about images, (B, 3, H, W) -> (B, F).

    This is what a cache holds.
    """
    if isinstance(encoder, OpenClipDualEncoder):
        return encoder.encode_image(images)
    assert isinstance(encoder.image_tower, CentredTower)
    features: Tensor = encoder.image_tower.tower(images)
    return features


def from_features(encoder: LockedEncoder, features: Tensor) -> tuple[Tensor, Tensor]:
    """Tower features (B, F) -> centred features (B, F) and embeddings (B, D)."""
    if isinstance(encoder, OpenClipDualEncoder):
        return features, features
    assert isinstance(encoder.image_tower, CentredTower)
    centred = features - encoder.image_tower.mean
    return centred, encoder.image_proj(centred)


def fold_normalization(
    network: nn.Module, layer: str, own: Normalization, given: Normalization
) -> None:
    """Let a network that learnt with one image normalisation take images of another, in place.

        W ((x - m') / s') + b = (W a) ((x - m) / s) + b + sum W c,   a = s / s',   c = (m - m') / s'

    Args:
        network: whose first layer is changed.
        layer: its name: a convolution of three channels with a bias and without padding, such as
            the patches of a ViT (behind padding, the equation fails at the border).
        own: channel means m' and deviations s' that the weights learnt with.
        given: m and s of the images to come.

    Raises:
        UserError: a first layer of another kind.
    """
    conv = network.get_submodule(layer)
    if not isinstance(conv, nn.Conv2d) or conv.bias is None or conv.padding != (0, 0):
        raise UserError(
            f"these weights learnt with mean {own[0]} and deviation {own[1]}, not with the"
            f" normalisation of data.normalize, and layer {layer} cannot take up the difference:"
            " set data.normalize to theirs"
        )
    (m_own, s_own), (m, s) = (torch.tensor(pair, dtype=torch.float64) for pair in (own, given))
    weight = conv.weight.detach().double()
    shift = torch.einsum("ochw,c->o", weight, (m - m_own) / s_own)
    conv.weight.data = (weight * (s / s_own)[:, None, None]).to(conv.weight.dtype)
    conv.bias.data = (conv.bias.detach().double() + shift).to(conv.bias.dtype)


def _as_trained(tower: nn.Module, pretrained: str, normalization: Normalization | None) -> None:
    """Weights of timm or torchvision see the pixels that they learnt with.

    A file's are left alone.
    """
    scheme, _, name = pretrained.partition(":")
    if normalization is None or scheme not in ("timm", "torchvision"):
        return
    assert isinstance(tower, ImageTower)
    if scheme == "timm":
        about: Any = tower.backbone.pretrained_cfg
        _fold(tower.backbone, about["first_conv"], (about["mean"], about["std"]), normalization)
        return
    from torchvision.models import get_model_weights

    read: Any = get_model_weights(name).DEFAULT.transforms()
    _fold(tower.backbone, _first_conv(tower.backbone), (read.mean, read.std), normalization)


def _whole_as_trained(encoder: OpenClipDualEncoder, normalization: Normalization | None) -> None:
    """The same for a model of a folder or a tag of open_clip, which says how it reads pictures."""
    if normalization is None:
        return
    visual = encoder.model.visual
    trained_with = encoder.image_mean, encoder.image_std
    _fold(visual, _first_conv(visual), trained_with, normalization)
    encoder.image_mean, encoder.image_std = normalization


def _first_conv(network: nn.Module) -> str:
    names: list[str] = [n for n, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    return names[0]


def _fold(
    network: nn.Module, layer: str, own: Sequence[Sequence[float]], given: Normalization
) -> None:
    """`fold_normalization` where the two differ by more than the digits that libraries print."""
    learnt: Any = tuple(tuple(float(value) for value in values) for values in own)
    pairs = zip((*learnt[0], *learnt[1]), (*given[0], *given[1]), strict=True)
    if any(abs(a - b) > 1e-3 for a, b in pairs):
        fold_normalization(network, layer, learnt, given)


def _load_trunk(
    encoder: OpenClipDualEncoder,
    pretrained: str,
    image_size: int,
    normalization: Normalization | None,
) -> None:
    """Timm's weights for the image tower of an open_clip model that is made of a timm model."""
    name = encoder.config["vision_cfg"].get("timm_model_name")
    if name is None:
        raise UserError(
            f"vision_pretrained={pretrained!r} needs an open_clip model with a timm image tower; "
            "use pretrained for the weights of a whole open_clip model"
        )
    tower = timm_tower(name, pretrained, image_size=image_size)
    _as_trained(tower, pretrained, normalization)
    load_state(encoder.model.visual.trunk, tower.backbone.state_dict(), source=pretrained)
