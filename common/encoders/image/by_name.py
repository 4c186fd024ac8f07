"""Image encoders by the name that configs give them."""

from collections.abc import Sequence

from common.config import UserError
from common.encoders.image.conv_nets import ConvNet3d, PooledConvNet, SmallAlexNet, SpriteNet
from common.encoders.image.towers import ConvNet, ImageTower, timm_tower, torchvision_tower

ImageEncoder = ConvNet | PooledConvNet | ConvNet3d | SmallAlexNet | SpriteNet | ImageTower
CONV_NETS: dict[str, type[ConvNet] | type[PooledConvNet] | type[ConvNet3d]] = {
    "convnet": ConvNet,
    "pooled_convnet": PooledConvNet,
    "convnet3d": ConvNet3d,
}
FIXED_NETS = ("small_alexnet", "sprites")


def image_encoder(
    name: str,
    *,
    widths: Sequence[int] = (),
    image_size: int = 32,
    cifar_stem: bool = False,
    pretrained: str = "random",
) -> ImageEncoder:
    """Network with `num_features` F: images (B, 3, H, W) -> features (B, F).

    Args:
        name: convnet, pooled_convnet, convnet3d (volumes (B, 1, S, S, S)), small_alexnet, sprites,
            ``timm/<model>``, or a torchvision model.
        widths: of the three conv nets.
        image_size: input in pixels, of small_alexnet, of torchvision's ViTs and of timm's models
            with a position table; timm's ViTs also take crops of other sizes.
        cifar_stem: see `torchvision_tower`; small nets have no such stem, whatever it is.
        pretrained: see `common.encoders.pretrained.resolve_pretrained`.

    Raises:
        UserError: unknown name, weights or a stem that the network does not have, an image size
            that does not fit, or a conv net without widths.
    """
    if name.startswith("timm/"):
        model = name.removeprefix("timm/")
        return timm_tower(
            model, pretrained, image_size=image_size, any_size=True, cifar_stem=cifar_stem
        )
    if name not in CONV_NETS and name not in FIXED_NETS:
        return torchvision_tower(name, pretrained, image_size=image_size, cifar_stem=cifar_stem)
    if pretrained != "random":
        raise UserError(f"model.backbone={name} has no pretrained weights: use a ResNet")
    if name in CONV_NETS and not widths:
        raise UserError(f"model.backbone={name} needs the channels of its stages: set model.widths")
    if name in CONV_NETS:
        return CONV_NETS[name](widths)
    return SmallAlexNet(image_size) if name == "small_alexnet" else SpriteNet()
