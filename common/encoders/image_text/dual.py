"""Two-tower encoders: images and texts into one space, built from our own towers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import linear_projection
from common.encoders.image.towers import ConvNet, timm_tower, torchvision_tower
from common.encoders.image.vit import VIT_SIZES, QKNormViT
from common.encoders.image_text.clip_text import ClipTextTransformer
from common.encoders.pretrained import resolve_pretrained
from common.encoders.state_dict import load_state, read_state_dict

if TYPE_CHECKING:
    from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder

Tokenizer = Callable[[Sequence[str]], Tensor]  # texts -> ids (B, L) int64


class DualEncoder(nn.Module):
    """An image tower, a text tower and one projection each.

    Args:
        image_tower: images (B, 3, H, W) -> (B, F_image); has `num_features`.
        text_tower: ids (B, L) -> (B, F_text); has `num_features`.
        embed_dim: D of the joint space; the projections are bias-free matrices N(0, 1/F).
        tokenizer: list of texts -> ids; kept as an attribute, not in the state dict.
        image_proj: replaces the matrix, (B, F_image) -> (B, D).
        text_proj: replaces the matrix, (B, F_text) -> (B, D).
    """

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: nn.Module,
        embed_dim: int = 512,
        *,
        tokenizer: Tokenizer | None = None,
        image_proj: nn.Module | None = None,
        text_proj: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image_tower, self.text_tower = image_tower, text_tower
        if image_proj is None:
            image_proj = linear_projection(_features(image_tower), embed_dim)
        if text_proj is None:
            text_proj = linear_projection(_features(text_tower), embed_dim)
        self.image_proj, self.text_proj = image_proj, text_proj
        self.embed_dim, self.tokenizer = embed_dim, tokenizer

    def image_features(self, images: Tensor) -> Tensor:
        """Features before the projection, (B, 3, H, W) -> (B, F_image)."""
        features: Tensor = self.image_tower(images)
        return features

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings, (B, 3, H, W) -> (B, D), not normalised."""
        embeddings: Tensor = self.image_proj(self.image_tower(images))
        return embeddings

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embeddings, (B, L) ids -> (B, D), not normalised."""
        embeddings: Tensor = self.text_proj(self.text_tower(tokens))
        return embeddings

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings (B, D), so that one call passes through wrappers such as DDP."""
        return self.encode_image(images), self.encode_text(tokens)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile both towers, as training calls them and not `forward`."""
        self.image_tower.compile(*args, **kwargs)
        self.text_tower.compile(*args, **kwargs)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the transformer blocks in the backward pass to save memory."""
        for tower in (self.image_tower, self.text_tower):
            switch = getattr(tower, "set_grad_checkpointing", None)
            if switch is not None:
                switch(enable)


def build_dual_encoder(
    *,
    open_clip: str | Mapping[str, Any] | None = None,
    vision: str | None = None,
    image_size: int | None = None,
    text: Mapping[str, Any] | None = None,
    embed_dim: int = 512,
    official_init: bool = False,
    pretrained: str = "random",
    tokenizer: Tokenizer | None = None,
) -> "DualEncoder | OpenClipDualEncoder":
    """Build a dual encoder from plain values of a config.

    Either an open_clip model (`open_clip`, or a folder exported by open_clip as `pretrained`), or
    our own towers (`vision`).

    Args:
        open_clip: name such as "ViT-B-16", or a config with ``embed_dim``, ``vision_cfg``,
            ``text_cfg``; excludes `vision`.
        vision: "qknorm_vit_s16", "qknorm_vit_b16", "qknorm_vit_l16", "conv",
            ``torchvision:<name>`` or ``timm:<name>``.
        image_size: side of the input in pixels, a multiple of the patch, for towers of `vision`
            with a position table (None: 224 or the library's own); convolutional ones take any
            size.
        text: keyword arguments of `ClipTextTransformer`; None is CLIP's size.
        embed_dim: D, with `vision`.
        official_init: see `QKNormViT`.
        pretrained: ``random``, ``open_clip:<name>/<tag>``, a file, a folder, ``bundled:<name>``;
            with `vision` the file (in a folder: ``model.safetensors``) holds the whole encoder,
            under our names or those of the official SLIP and LaCLIP code.
        tokenizer: texts -> ids; open_clip models have a default.

    Raises:
        UserError: contradicting or unknown values, absent or ill-fitting weights.
    """
    if vision is None:
        from common.encoders.image_text.open_clip_dual import open_clip_dual_encoder

        if text or official_init:
            raise UserError("text and official_init need vision; open_clip configs have text_cfg")
        return open_clip_dual_encoder(open_clip, pretrained, tokenizer)
    if open_clip is not None:
        raise UserError("give either open_clip or vision (our own towers), not both")
    ref = resolve_pretrained(pretrained)
    if ref.kind not in ("random", "file", "folder"):
        raise UserError(
            f"pretrained={pretrained!r} does not fit vision={vision!r}: give a weights file of the "
            "whole dual encoder, or random"
        )
    image_tower = _image_tower(vision, image_size, official_init)
    try:
        text_tower = ClipTextTransformer(**(text or {}))
    except (TypeError, ValueError) as error:
        raise UserError(f"text tower: {error}") from error
    encoder = DualEncoder(image_tower, text_tower, embed_dim, tokenizer=tokenizer)
    if ref.path is not None:
        file = ref.path / "model.safetensors" if ref.kind == "folder" else ref.path
        load_state(encoder, _own_names(read_state_dict(file)), source=str(file))
    return encoder


def _image_tower(vision: str, image_size: int | None, official_init: bool) -> nn.Module:
    scheme, _, name = vision.partition(":")
    if scheme == "torchvision":
        return torchvision_tower(name, image_size=image_size)
    if scheme == "timm":
        return timm_tower(name, image_size=image_size)
    if vision == "conv":
        return ConvNet()
    sizes = {f"qknorm_vit_{size.replace('/', '').lower()}": size for size in VIT_SIZES}
    if vision not in sizes:
        raise UserError(
            f"vision={vision!r} is unknown; use {', '.join(sizes)}, conv, torchvision:<name> or "
            "timm:<name>"
        )
    try:
        return QKNormViT.build(sizes[vision], image_size or 224, official_init=official_init)
    except ValueError as error:
        raise UserError(f"vision={vision!r} with image_size={image_size}: {error}") from error


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of official SLIP and LaCLIP checkpoints; others stay."""
    if "image_projection" not in state:
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        if name in ("image_projection", "text_projection"):
            renamed[f"{name.removesuffix('ection')}.weight"] = tensor.T
        elif name.startswith("visual."):
            renamed[f"image_tower.trunk.{name.removeprefix('visual.')}"] = tensor
        elif name != "logit_scale":
            renamed[f"text_tower.trunk.{name}"] = tensor
    return renamed


def _features(tower: nn.Module) -> int:
    return int(tower.num_features)  # type: ignore[arg-type]
