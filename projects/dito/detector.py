"""From images and class vectors to boxes: proposals, both scores, their fusion, suppression."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from common.config import UserError
from common.losses.output import unit
from projects.dito.config import ScoreConfig
from projects.dito.detection.boxes import apply_offsets, grid_boxes
from projects.dito.detection.localization_rpn import Proposals, boxes_at, places_of, propose
from projects.dito.detection.roi_align import with_image
from projects.dito.network import DitoNetwork
from projects.dito.objective import class_probabilities, detection_scores, fuse_scores

CANDIDATES = 5000  # pairs of a box and a class before suppression


class Detections(NamedTuple):
    """Boxes of one image, best first."""

    boxes: Tensor  # (N, 4) x1, y1, x2, y2 in pixels
    labels: Tensor  # (N,) int64 from 1
    scores: Tensor  # (N,) in [0, 1]
    masks: Tensor | None = None  # (N, 28, 28) probabilities inside the boxes, with a mask head


def need_head(network: DitoNetwork) -> None:
    """Refuse a model whose region vectors would be random.

    Raises:
        UserError: a box head that was never trained.
    """
    if not {"region", "detect"} & set(network.trained):
        raise UserError(
            "this model has image-level pretraining alone: its box head was never trained; use an "
            "export of the stage region or detect"
        )


@torch.no_grad()
def detect(
    network: DitoNetwork,
    images: Tensor,
    classes: Tensor,
    score: ScoreConfig,
    base: Tensor | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[Detections]:
    """Objects of any classes.

    Args:
        network: in evaluation mode.
        images: (B, 3, S, S), normalised.
        classes: (C + 1, D), row 0 the background; see `DitoNetwork.classes`.
        score: weights, temperatures, thresholds.
        base: (C + 1,) bool, classes trained with boxes; None: not known.
        sizes: height and width that the picture fills of each image; None: all of it.

    Raises:
        UserError: a box head that was never trained, or the RPN of a network that has none.
    """
    need_head(network)
    tuned = "detect" in network.trained
    if score.proposals == "rpn" and not tuned:
        raise UserError("score.proposals=rpn needs a model with the stage detect")
    whole = (images.shape[-2], images.shape[-1])
    sizes = [whole] * len(images) if sizes is None else sizes
    maps = network.pyramid(network.detector_map(images))
    grid = score.proposals == "grid" or not tuned
    proposals = _grid(score, sizes, images) if grid else _proposals(network, maps, sizes, score)
    vectors, offsets = network.head(network.crops(maps, with_image([p.boxes for p in proposals])))
    scale = network.region_scale()
    temperature = score.temp_det * network.log_temperature.exp() if tuned else 1 / scale
    fused = class_probabilities(vectors, classes, temperature)
    if score.vlm:
        frozen = network.vlm_vectors(images, [p.boxes for p in proposals])
        fused = fuse_scores(
            fused,
            class_probabilities(frozen, classes, score.temp_vlm),
            base,
            score.alpha,
            score.beta,
        )
    scores = detection_scores(fused, torch.cat([p.scores for p in proposals]), score.objectness_exp)
    starts = torch.cat([p.boxes for p in proposals])
    boxes = apply_offsets(offsets, starts) if tuned else starts
    counts = [len(p.boxes) for p in proposals]
    detections = [
        _suppressed(clip_boxes_to_image(b, size), s[:, 1:], score)
        for b, s, size in zip(
            torch.split(boxes, counts), torch.split(scores, counts), sizes, strict=True
        )
    ]
    if network.mask_head is None or not tuned:
        return detections
    masks = network.masks(maps, [d.boxes for d in detections]).sigmoid()
    per_image = torch.split(masks, [len(d.boxes) for d in detections])
    return [d._replace(masks=m) for d, m in zip(detections, per_image, strict=True)]


def _grid(score: ScoreConfig, sizes: Sequence[tuple[int, int]], images: Tensor) -> list[Proposals]:
    relative = grid_boxes(score.grid_sides)
    boxes = [relative * torch.tensor([w, h, w, h]) for h, w in sizes]
    return [Proposals(b.to(images.device), torch.ones(len(b), device=images.device)) for b in boxes]


def _proposals(
    network: DitoNetwork,
    maps: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    score: ScoreConfig,
) -> list[Proposals]:
    centerness, distances = network.rpn(maps)
    places = places_of(maps, network.pyramid.strides)
    boxes = boxes_at(places, distances)
    return [
        propose(c, b, places, size, top=score.rpn_top, keep=score.rpn_keep, nms_iou=score.rpn_nms)
        for c, b, size in zip(centerness, boxes, sizes, strict=True)
    ]


def _suppressed(boxes: Tensor, scores: Tensor, score: ScoreConfig) -> Detections:
    """Per class suppression among the best pairs of a box and a class."""
    flat = scores.flatten()
    best = flat.topk(min(CANDIDATES, len(flat)))
    kept = best.values > score.threshold
    values, places = best.values[kept], best.indices[kept]
    rows, labels = places // scores.shape[1], places % scores.shape[1]
    order = batched_nms(boxes[rows], values, labels, score.nms)[: score.keep]
    return Detections(boxes[rows[order]], labels[order] + 1, values[order])


@torch.no_grad()
def similarity_maps(
    network: DitoNetwork, images: Tensor, texts: Tensor, kind: str, side: float = 0.4
) -> Tensor:
    """Cosines of every place with one text an image.

    Args:
        network: in evaluation mode.
        images: (B, 3, S, S), normalised.
        texts: (B, K, D) unit vectors, K texts of each image.
        kind: "patch": projected tokens of image-level pretraining; "region": the head's vectors of
            squares around the same places.
        side: of these squares, over that of the image.

    Returns:
        (B, K, h, w).

    Raises:
        UserError: another kind, or regions of a box head that was never trained.
    """
    if kind not in ("patch", "region"):
        raise UserError(f"similarity maps are of the kind patch or region, not {kind!r}")
    if kind == "patch":
        grid = network.image_proj(network.image_map(images).permute(0, 2, 3, 1))
        return torch.einsum("bhwd,bkd->bkhw", unit(grid), texts)
    need_head(network)
    h, w = (v // network.model.patch_size for v in images.shape[-2:])
    patch = network.model.patch_size
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    centre = torch.stack([x.flatten(), y.flatten()], 1).to(images.device) * patch
    reach = side * images.shape[-1] / 2
    limit = torch.tensor([images.shape[-1], images.shape[-2]] * 2, device=images.device)
    boxes = torch.minimum(torch.cat([centre - reach, centre + reach], 1).clamp(min=0), limit)
    vectors = unit(network.region_vectors(images, [boxes] * len(images))).view(
        len(images), h, w, -1
    )
    return torch.einsum("bhwd,bkd->bkhw", vectors, texts)


def pointing(maps: Tensor, boxes: Tensor, patch: int) -> Tensor:
    """Whether the maximum of every map lies inside its box.

    Args:
        maps: (B, K, h, w).
        boxes: (B, K, 4) in pixels.
        patch: pixels of a place.

    Returns:
        (B, K) bool.
    """
    best = maps.flatten(2).argmax(2)
    x, y = (best % maps.shape[-1] + 0.5) * patch, (best // maps.shape[-1] + 0.5) * patch
    inside = (x >= boxes[..., 0]) & (x < boxes[..., 2]) & (y >= boxes[..., 1]) & (y < boxes[..., 3])
    return inside
