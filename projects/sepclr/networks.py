"""Encoders of common and salient codes, the single encoder, and the contrastive VAE."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import MLPHead
from common.encoders.image.by_name import ImageEncoder, image_encoder
from projects.sepclr.config import Config

Kind = Literal["pair", "single", "vae"]
KINDS: dict[str, Kind] = {
    "sepclr": "pair",
    "supervised": "pair",
    "simclr": "single",
    "vae": "vae",
}
_MAX_LOG_VARIANCE = 8.0


class Codes(NamedTuple):
    """What the encoders say about a batch.

    Attributes:
        common_rep: (B, R) what is kept after training.
        common_head: (B, C) projected, what the objective sees.
        salient_rep: (B, R).
        salient_head: (B, S).
    """

    common_rep: Tensor
    common_head: Tensor
    salient_rep: Tensor
    salient_head: Tensor


class Branch(nn.Module):
    """Encoder and projector: images -> representation (B, R) and head (B, D).

    Args:
        encoder: images -> (B, F), with `num_features`.
        rep_dim: R of a linear layer on the features; None keeps the features.
        hidden_dim: of the projector.
        out_dim: D.
        norm: of the projector's hidden layer.
    """

    def __init__(
        self,
        encoder: Any,
        rep_dim: int | None,
        hidden_dim: int,
        out_dim: int,
        norm: Literal["batch", "none"],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.rep_dim = rep_dim or encoder.num_features
        self.to_rep = nn.Linear(encoder.num_features, rep_dim) if rep_dim else nn.Identity()
        self.projector = MLPHead(self.rep_dim, [hidden_dim], out_dim, norm=norm)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Representation and head."""
        rep: Tensor = self.to_rep(self.encoder(images))
        return rep, self.projector(rep)


class GaussianBranch(nn.Module):
    """Encoder of a VAE: images -> mean and log-variance (B, R) of a diagonal Gaussian."""

    def __init__(self, encoder: Any, rep_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.mean = nn.Linear(encoder.num_features, rep_dim)
        self.log_variance = nn.Linear(encoder.num_features, rep_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, the latter at most 8."""
        features = self.encoder(images)
        return self.mean(features), self.log_variance(features).clamp(max=_MAX_LOG_VARIANCE)


class Decoder(nn.Module):
    """Code (B, R) -> images (B, 3, size, size) in [0, 1]; doubles the side with each width.

    Raises:
        UserError: the size is not divisible by 2 to the number of widths.
    """

    def __init__(self, code_dim: int, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.side, rest = divmod(size, 2 ** len(widths))
        if rest or not widths:
            raise UserError(
                f"data.image_size={size} must be divisible by 2^{len(widths)}, the doublings of "
                "model.decoder_widths"
            )
        self.widths = list(widths)
        self.first = nn.Linear(code_dim, widths[0] * self.side**2)
        layers: list[nn.Module] = []
        for fan_in, width in zip(widths, (*widths[1:], 3), strict=True):
            layers += [nn.ReLU(), nn.ConvTranspose2d(fan_in, width, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Sigmoid())

    def forward(self, codes: Tensor) -> Tensor:
        """Decoded images."""
        maps = self.first(codes).view(len(codes), self.widths[0], self.side, self.side)
        images: Tensor = self.layers(maps)
        return images


class Separator(nn.Module):
    """Two independent encoders: one for common, one for salient codes.

    Source: Louiset et al. 2024 (SepCLR), section 3, arXiv 2402.11928.
    """

    def __init__(self, common: Branch, salient: Branch) -> None:
        super().__init__()
        self.common, self.salient = common, salient

    def forward(self, images: Tensor) -> Codes:
        """Codes of a batch."""
        return Codes(*self.common(images), *self.salient(images))


class SingleEncoder(nn.Module):
    """One encoder whose code stands in both places, with as many dimensions as both together."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, images: Tensor) -> Codes:
        """Codes of a batch; common and salient ones are the same."""
        rep, head = self.branch(images)
        return Codes(rep, head, rep, head)


class ContrastiveVAE(nn.Module):
    """Common and salient Gaussian encoders and one decoder; the background has no salient code.

    Source: Abid and Zou 2019 (cVAE), section 3, arXiv 1902.04601.
    """

    def __init__(self, common: GaussianBranch, salient: GaussianBranch, decoder: Decoder) -> None:
        super().__init__()
        self.common, self.salient, self.decoder = common, salient, decoder

    def forward(self, images: Tensor) -> Codes:
        """Means of the codes, as representations and as heads."""
        common, salient = self.common(images)[0], self.salient(images)[0]
        return Codes(common, common, salient, salient)

    def decode(self, common: Tensor, salient: Tensor) -> Tensor:
        """Codes (B, R), (B, R) -> images (B, 3, S, S) in [0, 1]."""
        images: Tensor = self.decoder(torch.cat([common, salient], 1))
        return images


Network = Separator | SingleEncoder | ContrastiveVAE


def build_network(
    kind: Kind,
    backbone_name: str,
    widths: Sequence[int],
    cifar_stem: bool,
    rep_dim: int | None,
    hidden_dim: int,
    common_dim: int,
    salient_dim: int,
    head_norm: Literal["batch", "none"],
    decoder_widths: Sequence[int],
    image_size: int,
    pretrained: str = "random",
) -> Network:
    """Network of the config's values; also rebuilds an exported one."""

    def encoder() -> ImageEncoder:
        return image_encoder(
            backbone_name,
            widths=widths,
            image_size=image_size,
            cifar_stem=cifar_stem,
            pretrained=pretrained,
        )

    if kind == "single":
        rep = 2 * rep_dim if rep_dim else None
        return SingleEncoder(
            Branch(encoder(), rep, hidden_dim, common_dim + salient_dim, head_norm)
        )
    if kind == "vae":
        dim = rep_dim or common_dim
        common, salient = GaussianBranch(encoder(), dim), GaussianBranch(encoder(), dim)
        return ContrastiveVAE(common, salient, Decoder(2 * dim, image_size, decoder_widths))
    return Separator(
        Branch(encoder(), rep_dim, hidden_dim, common_dim, head_norm),
        Branch(encoder(), rep_dim, hidden_dim, salient_dim, head_norm),
    )


def network_options(cfg: Config) -> dict[str, Any]:
    """Arguments of `build_network`, without the place of pretrained weights."""
    model = cfg.model
    return {
        "kind": KINDS[cfg.method.objective],
        "backbone_name": model.backbone,
        "widths": list(model.widths),
        "cifar_stem": model.cifar_stem,
        "rep_dim": model.rep_dim,
        "hidden_dim": model.hidden_dim,
        "common_dim": model.common_dim,
        "salient_dim": model.salient_dim,
        "head_norm": model.head_norm,
        "decoder_widths": list(model.decoder_widths),
        "image_size": cfg.data.image_size,
    }


def representations(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Both codes before the projectors."""
    codes: Codes = network(images)
    return {"common": codes.common_rep, "salient": codes.salient_rep}
