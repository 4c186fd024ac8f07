"""Heads of the two towers, and one pass of a multi-view batch through all of them.

# B pairs, K augmented views, D features, E joint dim
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from common.encoders.heads import MLPHead
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.losses.output import full_precision, unit
from projects.clip_baselines import open_clip_parts as parts
from projects.clip_baselines.config import Config, MethodConfig
from projects.clip_baselines.multi_view import MultiViewPair

SIDES = ("image", "text")
LINEAR = {"image": parts.project_image, "text": parts.project_text}


class ChildHead(nn.Module):
    """Projector, and predictor, of a *LIP on one modality.

    SiamLIP and BYOLIP end in a batch norm without weights, one for clean and one for augmented
    views; the rest is shared by them unless `separate_children`.
    """

    def __init__(self, dim: int, method: MethodConfig, views: bool) -> None:
        super().__init__()
        hidden, out = method.child_dims
        kinds = 2 if views else 1
        heads = kinds if method.separate_children else 1
        self.last, self.predictor = nn.ModuleList(), nn.ModuleList()
        if method.name == "barlip":
            hidden, out = method.barlow_dims
            build = [MLPHead(dim, [hidden, hidden], out, last_norm=True) for _ in range(heads)]
        elif method.name == "swalip":
            build = [MLPHead(dim, [hidden], out) for _ in range(heads)]
        else:
            build = [MLPHead(dim, [hidden], out, last_norm=True) for _ in range(heads)]
            for head in build:
                head.layers[-1] = nn.Identity()  # in its place: a norm for each kind of view
            self.last.extend(nn.BatchNorm1d(out, affine=False) for _ in range(kinds))
            self.predictor.extend(MLPHead(out, [hidden], out) for _ in range(heads))
        self.projector = nn.ModuleList(build)

    def forward(self, features: Tensor, augmented: bool) -> tuple[Tensor, Tensor | None]:
        """Features (B, D) -> codes (B, out) and, if there is a predictor, predictions."""
        head = min(int(augmented), len(self.projector) - 1)
        code: Tensor = self.projector[head](features)
        if not len(self.predictor):
            return code, None
        code = self.last[int(augmented)](code)
        return code, self.predictor[head](code)


class Heads(nn.Module):
    """All that is trained alongside the towers with their linear projections.

    Args:
        dims: widths of image and text features.
        embed_dim: E.
        cfg: the experiment's config.
    """

    def __init__(self, dims: tuple[int, int], embed_dim: int, cfg: Config) -> None:
        super().__init__()
        method, views = cfg.method, cfg.data.num_augs > 0
        self.local, self.child = nn.ModuleDict(), nn.ModuleDict()
        self.prototypes: nn.Module | None = None
        prototypes = method.name == "swalip" and not views
        for side, dim in zip(SIDES, dims, strict=True):
            if method.separate_heads:
                width = method.head_dim
                self.local[side] = MLPHead(dim, [width, width], embed_dim)
            if method.name in ("barlip", "siamlip", "byolip") or prototypes:
                self.child[side] = ChildHead(dim, method, views)
        if prototypes:
            linear = nn.Linear(method.child_dims[1], method.prototypes, bias=False)
            self.prototypes = weight_norm(linear)
            scale = self.prototypes.get_parameter("parametrizations.weight.original0")
            scale.data.fill_(1.0)  # g is fixed: prototypes are unit vectors
            scale.requires_grad_(False)


@dataclass
class Encoded:
    """A batch after both towers; by side, of the clean view and of the K augmented ones."""

    z: dict[str, Tensor] = field(default_factory=dict)  # (B, E), linear heads
    h: dict[str, list[Tensor]] = field(default_factory=dict)  # K times (B, E)
    v: dict[str, list[Tensor]] = field(default_factory=dict)  # 1 + K codes, the clean one first
    p: dict[str, list[Tensor]] = field(default_factory=dict)  # 1 + K predictions


def encode(
    encoder: OpenClipDualEncoder, heads: Heads, batch: MultiViewPair, method: MethodConfig
) -> Encoded:
    """Each view through image tower and heads by itself, so batch statistics are those of one view.

    The clean pair takes the linear heads and no dropout, the others the MLPs (where there are any).
    """
    tokens, *others = batch["tokens"].unbind(1)
    texts = [parts.text_features(encoder, tokens)]
    if others:  # at once: no batch norm here, and every call costs a dense gradient of the words
        noise = {"dropout": method.text_dropout, "drop_path": method.text_drop_path}
        texts += parts.text_features(encoder, torch.cat(others), **noise).chunk(len(others))
    images = [encoder.image_features(x) for x in (batch["images"], *batch["views"])]
    features = {"image": images, "text": texts}
    out = Encoded()
    for side, (clean, *augmented) in features.items():
        out.z[side] = LINEAR[side](encoder, clean)
        has_local = side in heads.local
        out.h[side] = [
            heads.local[side](x) if has_local else LINEAR[side](encoder, x) for x in augmented
        ]
        if side in heads.child:
            child = heads.child[side]
            both = [child(x, i > 0) for i, x in enumerate(features[side])]
            out.v[side] = [code for code, _ in both]
            out.p[side] = [p for _, p in both if p is not None]
    return out


@full_precision
def prototype_scores(heads: Heads, code: Tensor) -> Tensor:
    """Cosines of codes (B, out) and prototypes (C) -> (B, C)."""
    assert heads.prototypes is not None
    scores: Tensor = heads.prototypes(unit(code))
    return scores


@torch.no_grad()
def start_linear_heads(encoder: OpenClipDualEncoder) -> None:
    """Image projection N(0, 1/D) where open_clip leaves PyTorch's default.

    The text's is so already.
    """
    head = getattr(encoder.model.visual, "head", None)
    if head is not None and hasattr(head, "proj"):
        nn.init.normal_(head.proj.weight, std=head.proj.in_features**-0.5)
