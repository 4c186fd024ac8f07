"""Encoder and projector of a config, for training and from an exported folder."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import MLPHead, Norm, ProjectedEncoder
from common.encoders.image.by_name import image_encoder
from common.encoders.image.conv_nets import normal_init
from common.families.images.config import ImageSetData, ProjectedModel


class ProjectedConfig(Protocol):
    """The sections that this module reads."""

    @property
    def data(self) -> ImageSetData:
        """Images."""

    @property
    def model(self) -> ProjectedModel:
        """Encoder and projector."""


def build_network(
    backbone: str,
    widths: Sequence[int],
    cifar_stem: bool,
    projector: Sequence[int],
    out_dim: int,
    head_norm: Norm,
    projector_last_norm: bool,
    *,
    projector_last_affine: bool = True,
    image_size: int = 32,
    freeze_patch_embed: bool = False,
    pretrained: str = "random",
) -> ProjectedEncoder:
    """Network of the config's values; also rebuilds an exported one.

    Args:
        backbone: see `ProjectedModel`; so are the following.
        widths: of the conv net.
        cifar_stem: of ResNets.
        projector: hidden widths.
        out_dim: dimension of the embeddings.
        head_norm: of the projector.
        projector_last_norm: whether its output is normalised too.
        projector_last_affine: whether that norm has scale and shift.
        image_size: input in pixels.
        freeze_patch_embed: of ViTs.
        pretrained: weights of the encoder.

    Raises:
        UserError: an unknown backbone, weights that do not fit, or `freeze_patch_embed` for a
            network without patches.
    """
    encoder = image_encoder(
        backbone, widths=widths, image_size=image_size, cifar_stem=cifar_stem, pretrained=pretrained
    )
    if freeze_patch_embed:
        patch_embed: Any = getattr(getattr(encoder, "backbone", None), "patch_embed", None)
        if patch_embed is None:
            raise UserError(f"model.freeze_patch_embed needs a ViT of timm, got {backbone}")
        patch_embed.requires_grad_(False)
    head = MLPHead(
        encoder.num_features,
        projector,
        out_dim,
        norm=head_norm,
        last_norm=projector_last_norm,
        last_affine=projector_last_affine,
    )
    network = ProjectedEncoder(encoder, head)
    if backbone == "small_alexnet":
        normal_init(network)
    return network


def network_options(cfg: ProjectedConfig) -> dict[str, Any]:
    """Arguments of `build_network`, without the place of pretrained weights."""
    model = cfg.model
    return {
        "backbone": model.backbone,
        "widths": list(model.widths),
        "cifar_stem": model.cifar_stem,
        "projector": list(model.projector),
        "out_dim": model.out_dim,
        "head_norm": model.head_norm,
        "projector_last_norm": model.projector_last_norm,
        "projector_last_affine": model.projector_last_affine,
        "image_size": cfg.data.image_size,
        "freeze_patch_embed": model.freeze_patch_embed,
    }


def projected_encoder(cfg: ProjectedConfig) -> ProjectedEncoder:
    """The network with which training begins."""
    return build_network(**network_options(cfg), pretrained=cfg.model.pretrained)


def embed_views(network: nn.Module, views: Tensor) -> Tensor:
    """Views (V, B, 3, S, S) -> embeddings (V, B, D), all views in one pass."""
    embeddings: Tensor = network(views.flatten(0, 1))
    return embeddings.view(*views.shape[:2], -1)
