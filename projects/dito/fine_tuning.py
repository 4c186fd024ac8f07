"""Fine-tuning with boxes of base classes: losses of RPN, regions and masks, L2, step schedule.

Source: Kim, Angelova & Kuo 2023, arXiv 2310.00161, and the released detector (google-research,
fvlm).

# B images, L places, N regions, C classes (0 is the background)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import OptimConfig
from common.distributed.differentiable import rank_mean_of_sums
from common.engine.optim import lr_at
from projects.dito.config import Config
from projects.dito.data import DitoBatch
from projects.dito.detection.boxes import Regions, apply_offsets, sample_regions
from projects.dito.detection.localization_rpn import (
    IGNORED,
    Places,
    boxes_at,
    place_targets,
    places_of,
    propose,
)
from projects.dito.detection.mask_head import mask_loss, mask_targets
from projects.dito.detection.roi_align import with_image
from projects.dito.network import DitoNetwork
from projects.dito.objective import class_logits

COUNTS = -0.5  # a centerness target below it is ignored
NO_L2 = ("bias", "norm", "backbone.", "log_temperature")  # and one-dimensional ones


def detection_losses(
    cfg: Config,
    network: DitoNetwork,
    batch: DitoBatch,
    classes: Tensor,
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """RPN and region losses on base classes, and L2 on the weights; "loss" is their sum.

    Args:
        cfg: the experiment's config.
        network: its backbone gets `detect.backbone_gradient` of the gradient.
        batch: with boxes and labels of base classes.
        classes: (C, D) unit text vectors, row 0 the background.
        generators: on the CPU, one for each image: what is sampled depends on nothing else.

    Distributed: divisors are constants, or counts of foreground over all ranks, so that means over
    ranks are those of the whole batch.
    """
    options, net, images = cfg.detect, network, batch["images"]
    grid = scale_gradient(net.detector_map(images), options.backbone_gradient)
    maps = net.pyramid(grid)
    centerness, distances = net.rpn(maps)
    places = places_of(maps, net.pyramid.strides)
    boxes = boxes_at(places, distances)
    target, truth = sampled_targets(places, batch["boxes"], generators, options.places)
    rpn_centre, rpn_box = rpn_losses(centerness, boxes, target, truth, options.places)
    size = (images.shape[-2], images.shape[-1])
    regions: list[Regions] = []
    for i, generator in enumerate(generators):  # proposals carry no gradient into the RPN
        proposals = propose(
            centerness[i].detach(),
            boxes[i].detach(),
            places,
            size,
            top=options.top,
            keep=options.keep,
            nms_iou=options.nms,
        )
        regions.append(
            sample_regions(
                proposals.boxes,
                batch["boxes"][i],
                batch["labels"][i],
                generator,
                count=options.regions,
                positive_fraction=options.positive_fraction,
                iou=options.positive_iou,
            )
        )
    vectors, offsets = net.head(net.crops(maps, with_image([r.boxes for r in regions])))
    labels = torch.cat([r.labels for r in regions])
    offset_targets, start = (
        torch.cat([r.offsets for r in regions]),
        torch.cat([r.boxes for r in regions]),
    )
    logits = class_logits(vectors, classes, cfg.score.temp_det * net.log_temperature.exp())
    count = options.regions * len(images)
    if options.box_loss == "huber":
        box = region_box_loss(offsets, offset_targets, labels)
    else:
        rows = labels > 0
        moved, aim = (apply_offsets(o[rows], start[rows]) for o in (offsets, offset_targets))
        box = rank_mean_of_sums((1 - paired_iou(moved, aim)).sum(), rows.sum())
    terms = {
        "rpn_centerness": rpn_centre,
        "rpn_box": options.rpn_box_weight * rpn_box,
        "region_class": region_class_loss(logits, labels, options.background_weight, count),
        "region_box": box,
        "l2": options.l2 * half_squares(network),
    }
    if net.mask_head is not None:
        terms["mask"] = masked(net, maps, batch, regions)
    return {"loss": torch.stack(list(terms.values())).sum(), **terms}


def masked(
    network: DitoNetwork, maps: Sequence[Tensor], batch: DitoBatch, regions: Sequence[Regions]
) -> Tensor:
    """Mask loss of the foreground regions of all images."""
    targets, boxes = [], []
    for truth, masks, sampled in zip(batch["boxes"], batch["masks"], regions, strict=True):
        rows = sampled.labels > 0
        match = sampled.matches[rows]
        boxes.append(sampled.boxes[rows])
        targets.append(mask_targets(masks[match], truth[match], sampled.boxes[rows]))
    return mask_loss(network.masks(maps, boxes), torch.cat(targets))


def half_squares(network: DitoNetwork) -> Tensor:
    """Half the squared norm of trained weights, without norms, biases, scale and backbone."""
    kept = [
        p
        for name, p in network.named_parameters()
        if p.requires_grad and p.ndim > 1 and not any(part in name for part in NO_L2)
    ]
    return 0.5 * torch.stack([p.square().sum() for p in kept]).sum()


def sampled_targets(
    places: Places, truth: Sequence[Tensor], generators: Sequence[torch.Generator], count: int
) -> tuple[Tensor, Tensor]:
    """Centerness (B, L) and boxes (B, L, 4); at most `count` places of every image count."""
    pairs = [place_targets(places, truth_boxes) for truth_boxes in truth]
    target, boxes = (torch.stack(part) for part in zip(*pairs, strict=True))
    for i, generator in enumerate(generators):
        rows = (target[i] > COUNTS).nonzero()[:, 0]
        drop = rows[torch.randperm(len(rows), generator=generator)[count:].to(rows.device)]
        target[i, drop], boxes[i, drop] = IGNORED, 0.0
    return target, boxes


def rpn_losses(
    centerness: Tensor, boxes: Tensor, target: Tensor, truth: Tensor, places: int = 256
) -> tuple[Tensor, Tensor]:
    """L1 on centerness and 1 - IoU on boxes, over valid places, divided by B times `places`.

    Args:
        centerness: (B, L) logits.
        boxes: (B, L, 4) predicted.
        target: (B, L), below -0.5 where ignored.
        truth: (B, L, 4), all zero where ignored.
        places: constant of the divisor.
    """
    norm = len(centerness) * places
    valid = target > COUNTS
    l1 = (centerness.sigmoid() - target)[valid].abs().sum() / norm
    positive = truth.abs().sum(-1) > 0
    return l1, (1 - paired_iou(boxes[positive], truth[positive])).sum() / norm


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of box i with box i, (N,).

    >>> a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    >>> paired_iou(a, b).round(decimals=4).item()
    0.33329999446868896
    """
    low, high = (
        torch.maximum(first[:, :2], second[:, :2]),
        torch.minimum(first[:, 2:], second[:, 2:]),
    )
    inter = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (first, second)]
    return inter / (areas[0] + areas[1] - inter).clamp(min=1e-9)


def region_class_loss(
    logits: Tensor, labels: Tensor, background_weight: float = 0.9, count: int | None = None
) -> Tensor:
    """Softmax cross-entropy, rows of background times 0.9, over a constant number of rows.

    Args:
        logits: (N, C) cosines over the temperature.
        labels: (N,) int64, 0 is background.
        background_weight: of rows with label 0.
        count: divisor: regions that the images would have if none lacked candidates (shapes are
            static in the release); None: N.
    """
    weights = torch.where(labels == 0, background_weight, 1.0)
    loss: Tensor = (weights * F.cross_entropy(logits, labels, reduction="none")).sum()
    return loss / max(1, count or len(labels))


def region_box_loss(offsets: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Huber (delta 1) on offsets, mean over the coordinates of foreground rows, as released.

    Args:
        offsets: (N, 4) predicted.
        target: (N, 4), encoded with weights 10, 10, 5, 5.
        labels: (N,), 0 is background, which has no part.

    Distributed: the mean over ranks is that of all foreground rows.
    """
    rows = labels > 0
    loss: Tensor = F.huber_loss(offsets[rows], target[rows], reduction="sum")
    return rank_mean_of_sums(loss, 4 * rows.sum())


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values; their gradient times `factor`."""
    return x.detach() + factor * (x - x.detach()) if factor != 1 else x


def step_factor(optim: OptimConfig, total: int, marks: Sequence[float]) -> Callable[[int], float]:
    """Factor of the rate by step: linear warm-up, then a tenth at each of the marks.

    Args:
        optim: rate and warm-up.
        total: steps of the training.
        marks: shares of it.
    """
    edges = [round(mark * total) for mark in marks]

    def factor(step: int) -> float:
        warm = lr_at(
            step,
            lr=optim.lr,
            total_steps=total,
            warmup_steps=optim.warmup_steps,
            schedule="constant",
            warmup_start_lr=optim.warmup_start_lr,
        )
        return warm / optim.lr * float(0.1 ** sum(step >= edge for edge in edges))

    return factor
