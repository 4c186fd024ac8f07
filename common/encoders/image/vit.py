"""Vision transformer with layer-normalised queries and keys (the image tower of LaCLIP)."""

from functools import partial
from typing import Literal

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

Activation = Literal["gelu", "quick_gelu"]

# name -> (patch size, width, blocks, heads)
VIT_SIZES: dict[str, tuple[int, int, int, int]] = {
    "S/16": (16, 384, 12, 12),  # 12 heads of 32, as in MoCo v3
    "B/16": (16, 768, 12, 12),
    "L/16": (16, 1024, 24, 16),
}
LN_EPS = 1e-6


class QKNormViT(nn.Module):
    """Pre-norm ViT whose attention applies a LayerNorm per head to q and k.

    softmax(LN(q) LN(k)^T / sqrt(head_dim)) v in every block; class token, learned positions,
    GELU MLP; the output is the layer-normalised class token.

    Source: Fan et al. 2023, "Improving CLIP Training with Language Rewrites", arXiv 2305.20088
    (models of the official code); Dosovitskiy et al. 2021, arXiv 2010.11929.

    Args:
        image_size: side of the square input in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        width: token dimension F, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden size of the MLP over `width`.
        qk_norm: False gives the plain ViT.
        activation: of the MLP; "quick_gelu" is x * sigmoid(1.702 x).
        official_init: True initialises the blocks like the official code, which creates them after
            the ViT initialiser ran: PyTorch's default for `nn.Linear`; and the class token like
            timm 0.5.4, with which it runs: truncated normal, std 0.02.

    Deviation: the default is the ViT initialiser of the installed timm (truncated normal, std 0.02;
    class token normal, std 1e-6).

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        *,
        qk_norm: bool = True,
        activation: Activation = "gelu",
        official_init: bool = False,
    ) -> None:
        super().__init__()
        if image_size % patch_size or width % heads:
            raise ValueError(
                f"image_size must be a multiple of patch_size and width of heads; got "
                f"{image_size}, {patch_size}, {width}, {heads}"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.num_features, self.depth, self.heads = width, depth, heads
        self.mlp_ratio, self.qk_norm, self.activation = mlp_ratio, qk_norm, activation
        self.trunk = VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            qk_norm=qk_norm,
            norm_layer=partial(nn.LayerNorm, eps=LN_EPS),
            act_layer=activation,
        )
        if official_init:
            for layer in self.trunk.blocks.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
            nn.init.trunc_normal_(self.trunk.get_parameter("cls_token"), std=0.02)

    @classmethod
    def build(
        cls,
        size: str,
        image_size: int = 224,
        *,
        activation: Activation = "gelu",
        official_init: bool = False,
    ) -> "QKNormViT":
        """A size of the paper: "S/16", "B/16" or "L/16".

        Raises:
            ValueError: another size.
        """
        if size not in VIT_SIZES:
            raise ValueError(f"size must be one of {sorted(VIT_SIZES)}, got {size!r}")
        patch, width, depth, heads = VIT_SIZES[size]
        return cls(
            image_size,
            patch,
            width,
            depth,
            heads,
            activation=activation,
            official_init=official_init,
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        self.trunk.set_grad_checkpointing(enable)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, image_size, image_size), normalised -> features (B, width)."""
        features: Tensor = self.trunk(images)
        return features
