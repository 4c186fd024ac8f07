"""Regions named among all classes, where maxima lie, how stable regions are, average precision."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as TF

from common.config import UserError
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.files import write_text
from common.losses.output import unit
from projects.dito import coco
from projects.dito.config import Config
from projects.dito.detection.coco_boxes import box_metrics, check_library
from projects.dito.detection.drawn_boxes import draw_boxes
from projects.dito.detection.mask_head import paste, run_lengths
from projects.dito.detector import Detections, detect, pointing, similarity_maps
from projects.dito.module import DITO
from projects.dito.network import DitoNetwork
from projects.dito.scenes import Scenes, is_base, scenes_of, transform_of
from projects.dito.stages import templates_of

SHIFTED = 100  # scenes whose regions are moved
GALLERY = 8


def evaluate(cfg: Config, module: DITO, workspace: Workspace) -> dict[str, float]:
    """Metrics of a trained network.

    On annotation files those of COCO or LVIS, else those of scenes.

    Returns:
        ``region_top1``: share of true boxes named right among all names, with its chance; on those
        that a window border crosses and the others (means of scenes); ``caption_r1_in_batch`` among
        ``eval.batch_size`` captions; ``pointing_*``; ``shift_variance``;
        ``transfer_region_top1`` with another set's class list; ``box_recall`` of a trained RPN, and
        ``ap*`` if asked for.

    Raises:
        UserError: `eval.detections` without the library that judges them.
    """
    network = module.network
    if cfg.eval.detections:
        check_library()  # before everything is detected
    with evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "coco":
            return evaluate_files(cfg, network, workspace)
        scenes = cut(scenes_of(cfg, cfg.eval.split), cfg.eval.limit)
        metrics = named_regions(cfg, network, scenes, workspace)
        if cfg.eval.transfer and cfg.data.source != "shapes":
            metrics |= transfer(cfg, network)
        if cfg.eval.mechanism:
            metrics |= locality(cfg, network, scenes) | shift_variance(cfg, network, scenes)
        if "detect" in network.trained:
            metrics |= evaluate_scenes(cfg, network, scenes, workspace)
        return metrics


def cut(scenes: Scenes, limit: int | None) -> Scenes:
    """The first `limit` scenes."""
    return Scenes(scenes.images[:limit], scenes.boxes[:limit], scenes.labels[:limit], scenes.names)


def region_kind(cfg: Config, network: DitoNetwork) -> str:
    """What stands for a region: `eval.regions`; auto is the head where a stage has trained it."""
    if cfg.eval.regions != "auto":
        return cfg.eval.regions
    return "head" if {"region", "detect"} & set(network.trained) else "map"


def batches(
    cfg: Config, network: DitoNetwork, scenes: Scenes
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows, normalised images and boxes, on the network's device."""
    device, transform = network.log_temperature.device, transform_of(cfg.data)
    for start in range(0, len(scenes.images), cfg.eval.batch_size):
        rows = slice(start, start + cfg.eval.batch_size)
        yield rows, transform.batch(scenes.images[rows]).to(device), scenes.boxes[rows].to(device)


def regions_of(network: DitoNetwork, images: Tensor, boxes: Tensor, kind: str) -> Tensor:
    """Unit vectors (B, K, D) of boxes (B, K, 4): by head, map, crop, image or centre box."""
    b, k = boxes.shape[:2]
    size = images.shape[-1]
    if kind == "whole":
        return unit(network.image_vectors(images))[:, None].expand(-1, k, -1)
    if kind == "crop":  # resized to the input of the image-level model
        crops = [
            TF.resized_crop(
                image,
                int(y0),
                int(x0),
                max(1, int(y1 - y0)),
                max(1, int(x1 - x0)),
                [size, size],
                antialias=True,
            )
            for image, image_boxes in zip(images, boxes, strict=True)
            for x0, y0, x1, y1 in image_boxes.tolist()
        ]
        return unit(network.image_vectors(torch.stack(crops))).view(b, k, -1)
    if kind == "centre":
        middle = images.new_tensor([0.25, 0.25, 0.75, 0.75]) * size
        boxes = middle.expand(b, k, 4)
    vectors = (
        network.map_vectors(images, list(boxes))
        if kind == "map"
        else network.region_vectors(images, list(boxes))
    )
    return unit(vectors).view(b, k, -1)


def predicted(
    cfg: Config, network: DitoNetwork, scenes: Scenes, kind: str
) -> tuple[Tensor, Tensor]:
    """Nearest name of every box (N, K); whether an image's caption is nearest in its batch, (M,).

    M < N where the last of several batches is smaller: among fewer captions a hit is easier.
    """
    names = network.classes(scenes.names, templates_of(cfg))[1:]
    rows, nearest = [], []
    for part, images, boxes in batches(cfg, network, scenes):
        vectors = regions_of(network, images, boxes, kind)
        rows.append((vectors @ names.T).argmax(-1).cpu())
        texts = [scenes.caption(i) for i in range(*part.indices(len(scenes.images)))]
        words = unit(network.text_vectors(network.tokenizer(texts).to(images.device)))
        scores = unit(network.image_vectors(images)) @ words.T
        if part.start == 0 or len(images) == cfg.eval.batch_size:
            nearest.append((scores.argmax(1).cpu() == torch.arange(len(images))).float())
    return torch.cat(rows), torch.cat(nearest)


def named_regions(
    cfg: Config, network: DitoNetwork, scenes: Scenes, workspace: Workspace
) -> dict[str, float]:
    """Accuracy over all true boxes; items are scenes, so that the bootstrap draws whole scenes."""
    best, nearest = predicted(cfg, network, scenes, region_kind(cfg, network))
    right = (best == scenes.labels).float()
    metrics = {
        "region_top1_chance": 1 / len(scenes.names),
        "caption_r1_in_batch": float(nearest.mean()),
    }
    for name, shares in by_scene(cfg, scenes, right).items():
        metrics[name] = float(shares.mean())  # NaN without such a box
        if len(shares):
            workspace.items(name, shares.tolist())
    base = torch.tensor([is_base(n) for n in scenes.names])[scenes.labels]
    if "detect" in network.trained:
        metrics |= {
            "region_top1_base": float(right[base].mean()),
            "region_top1_novel": float(right[~base].mean()),
        }
    workspace.gallery("regions", gallery(scenes, best))
    return metrics


def by_scene(cfg: Config, scenes: Scenes, right: Tensor) -> dict[str, Tensor]:
    """Share of boxes named right per scene: all, those on a border of windows, the others.

    Args:
        cfg: image size and windows.
        scenes: N scenes of K boxes.
        right: (N, K) float, 1 where a box has got its name, else 0.

    Returns:
        ``region_top1`` (N,), ``region_top1_border`` and ``region_top1_inside``, both shorter where
        scenes have no such box.
    """
    crossed = crosses(scenes.boxes, cfg)
    parts = {"": torch.ones_like(crossed), "_border": crossed, "_inside": ~crossed}
    return {
        f"region_top1{name}": ((right * kept).sum(1) / kept.sum(1).clamp(min=1))[kept.any(1)]
        for name, kept in parts.items()
    }


def crosses(boxes: Tensor, cfg: Config) -> Tensor:
    """Whether a border between windows goes through a box: (..., 4) -> (...)."""
    step = cfg.data.image_size / cfg.model.windows_per_side
    low, high = boxes[..., :2] / step, boxes[..., 2:] / step
    return (low.floor() < (high.ceil() - 1)).any(-1)


def gallery(scenes: Scenes, best: Tensor) -> list[dict[str, Any]]:
    """Scenes with their true boxes and the names that these got."""
    rows = []
    for i in range(min(GALLERY, len(scenes.images))):
        picture = TF.to_pil_image(scenes.images[i])
        names = [scenes.names[k] for k in best[i].tolist()]
        drawn = draw_boxes(picture, scenes.boxes[i].tolist(), names)
        results = [
            {
                "item": scenes.names[t],
                "name": f"named {n}",
                "score": 0.0,
                "correct": scenes.names[t] == n,
            }
            for t, n in zip(scenes.labels[i].tolist(), names, strict=True)
        ]
        rows.append({"query": drawn, "results": results})
    return rows


def transfer(cfg: Config, network: DitoNetwork) -> dict[str, float]:
    """The class list of another set, swapped in without training; the same code on its scenes."""
    scenes = cut(scenes_of(cfg, "transfer"), cfg.eval.limit)
    best, _ = predicted(cfg, network, scenes, region_kind(cfg, network))
    seen = torch.tensor([n in set(scenes_of(cfg, "test").names) for n in scenes.names])[
        scenes.labels
    ]
    right = (best == scenes.labels).float()
    out = {
        "transfer_region_top1": float(right.mean()),
        "transfer_region_top1_chance": 1 / len(scenes.names),
    }
    for name, rows in (("known", seen), ("new", ~seen)):
        if bool(rows.any()):
            out[f"transfer_region_top1_{name}_names"] = float(right[rows].mean())
    return out


def locality(cfg: Config, network: DitoNetwork, scenes: Scenes) -> dict[str, float]:
    """Pointing accuracy of patch and, where trained, region maps.

    By chance the mean share of a box.
    """
    names = network.classes(scenes.names, templates_of(cfg))[1:]
    kinds = ["patch", *(["region"] if {"region", "detect"} & set(network.trained) else [])]
    hits: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    for part, images, boxes in batches(cfg, network, scenes):
        texts = names[scenes.labels[part].to(names.device)]
        for kind in kinds:
            maps = similarity_maps(network, images, texts, kind)
            hits[kind].append(pointing(maps, boxes, cfg.model.patch_size).float().cpu())
    sides = scenes.boxes[..., 2:] - scenes.boxes[..., :2]
    out = {
        f"pointing_{kind}": float(torch.cat(hits_of_kind).mean())
        for kind, hits_of_kind in hits.items()
    }
    return out | {"pointing_chance": float((sides.prod(-1) / cfg.data.image_size**2).mean())}


def shift_variance(cfg: Config, network: DitoNetwork, scenes: Scenes) -> dict[str, float]:
    """1 - cosine of a region before and after the scene moves by one and two patches.

    The moved scene is rolled by whole patches; boxes that would leave it have no part.
    """
    kind, patch, size = region_kind(cfg, network), cfg.model.patch_size, cfg.data.image_size
    if kind not in ("head", "map"):
        return {}
    distances = []
    for _, images, boxes in batches(cfg, network, cut(scenes, SHIFTED)):
        before = regions_of(network, images, boxes, kind)
        for step in (patch, 2 * patch):
            moved = torch.roll(images, (step, step), (2, 3))
            there = boxes + step
            after = regions_of(network, moved, there.clamp(max=size), kind)
            kept = (there <= size).all(-1)
            distances.append((1 - (before * after).sum(-1))[kept].cpu())
    return {"shift_variance": float(torch.cat(distances).mean())}


# -- boxes found by the detector -------------------------------------------------------------------


def evaluate_scenes(
    cfg: Config, network: DitoNetwork, scenes: Scenes, workspace: Workspace
) -> dict[str, float]:
    """Recall of found boxes, and average precision by base and novel names if `eval.detections`."""
    classes = network.classes(scenes.names, templates_of(cfg))
    base = torch.tensor([False, *(is_base(n) for n in scenes.names)])
    detections: list[Detections] = []
    for _, images, _ in batches(cfg, network, scenes):
        detections += detect(network, images, classes, cfg.score, base)
    recalled = [
        covered(truth, d.boxes.cpu()) for truth, d in zip(scenes.boxes, detections, strict=True)
    ]
    metrics = {"box_recall": float(torch.cat(recalled).mean())}
    if cfg.eval.detections:
        truth = as_coco(scenes)
        groups = _groups(base[1:].tolist(), list(range(1, len(scenes.names) + 1)))
        results = [row for i, d in enumerate(detections) for row in as_results(d, i, groups["all"])]
        metrics |= box_metrics(truth, results, groups=groups)
    return metrics


def covered(truth: Tensor, boxes: Tensor) -> Tensor:
    """Which true boxes (G, 4) a found one (N, 4) overlaps by half, (G,) of 0 and 1."""
    if not len(boxes):
        return torch.zeros(len(truth))
    hits: Tensor = box_iou(truth, boxes).amax(1) >= 0.5
    return hits.float()


def as_coco(scenes: Scenes) -> dict[str, Any]:
    """Scenes as the content of an annotation file."""
    side = scenes.images.shape[-1]
    rows = [
        {"image_id": i, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i in range(len(scenes.images))
        for (x0, y0, x1, y1), label in zip(scenes.boxes[i].tolist(), scenes.labels[i], strict=True)
    ]
    images = [{"id": i, "height": side, "width": side} for i in range(len(scenes.images))]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(scenes.names)]
    return {"images": images, "annotations": rows, "categories": categories}


def as_results(
    detections: Detections,
    image: int,
    categories: Sequence[int],
    factor: float = 1.0,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Rows of a result file: boxes as x, y, width, height in pixels of the file.

    Args:
        detections: of one image.
        image: its id.
        categories: ids of the labels 1, 2, ...
        factor: pixels of the detections over pixels of the file.
        size: height and width of the file, where masks are asked for.
    """
    boxes = detections.boxes.cpu() / factor
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    rows = zip(corners, detections.labels.tolist(), detections.scores.tolist(), strict=True)
    results: list[dict[str, Any]] = [
        {"image_id": image, "category_id": categories[label - 1], "bbox": box, "score": score}
        for box, label, score in rows
    ]
    if size is not None and detections.masks is not None:
        for row, mask, box in zip(results, detections.masks, boxes, strict=True):
            row["segmentation"] = run_lengths(paste(mask, box, size))
    return results


def _groups(base: Sequence[bool], ids: Sequence[int]) -> dict[str, list[int]]:
    """Ids of base and novel classes and of all; of all alone where no split is known."""
    pairs, whole = list(zip(ids, base, strict=True)), {"all": list(ids)}
    groups = {"base": [i for i, b in pairs if b], "novel": [i for i, b in pairs if not b]}
    return groups | whole if all(groups.values()) else whole


def evaluate_files(cfg: Config, network: DitoNetwork, workspace: Workspace) -> dict[str, float]:
    """Recall of boxes on an annotation file, and average precision if `eval.detections`.

    With `eval.masks` also that of masks, as ``mask_*``. The file's class list is swapped in, whatever was trained. With ``data.novel=none`` all weigh as
    base if all were trained on with boxes; else (transfer to another set) the split is unknown and
    all weigh as novel.

    Raises:
        UserError: `eval.masks` of a model without a mask head.
    """
    data = cfg.data
    path = coco.annotation_path(data, False)
    if cfg.eval.masks and network.mask_head is None:
        raise UserError(
            "eval.masks=true, but this model was trained with model.masks=false: it has no mask"
            " head; set eval.masks=false"
        )
    annotated = coco.read_coco(path, data.novel, training=False)
    classes = network.classes(annotated.names, templates_of(cfg))
    novel_known = data.novel != "none" or set(annotated.names) <= set(network.base_names)
    base = torch.tensor([False, *annotated.base]) if novel_known else None
    results: list[dict[str, Any]] = []
    recalled: list[Tensor] = []
    images = annotated.images[: cfg.eval.limit]
    folder, device = coco.folder_of(data, False), classes.device
    for start in workspace.progress(range(0, len(images), cfg.eval.batch_size), "detecting"):
        part = images[start : start + cfg.eval.batch_size]
        pictures = [coco.opened(folder / image.file) for image in part]
        squares = [coco.to_square(p, data.image_size) for p in pictures]
        sizes = [
            (round(p.height * f), round(p.width * f))
            for p, (_, f) in zip(pictures, squares, strict=True)
        ]
        pixels = torch.stack([s for s, _ in squares]).to(device)
        detections = detect(network, pixels, classes, cfg.score, base, sizes)
        for image, picture, (_, f), d in zip(part, pictures, squares, detections, strict=True):
            whole = (picture.height, picture.width) if cfg.eval.masks else None
            results += as_results(d, image.id, annotated.categories, f, whole)
            recalled.append(covered(image.boxes, d.boxes.cpu() / f))
    metrics = {"box_recall": float(torch.cat(recalled).mean())}
    write_text(workspace.folder(".") / "detections.json", json.dumps(results))
    if not cfg.eval.detections:
        return metrics
    truth = json.loads(path.read_text(encoding="utf-8"))
    kept, categories = {image.id for image in images}, set(annotated.categories)
    truth["images"] = [i for i in truth["images"] if i["id"] in kept]
    truth["annotations"] = [
        a for a in truth["annotations"] if a["image_id"] in kept and a["category_id"] in categories
    ]
    truth["categories"] = [c for c in truth["categories"] if c["id"] in categories]
    style: Any = "lvis" if data.novel == "lvis" else "coco"
    groups = _groups(annotated.base, annotated.categories)
    metrics |= box_metrics(truth, results, style=style, groups=groups)
    if cfg.eval.masks:
        masks = box_metrics(truth, results, style=style, groups=groups, kind="segm")
        metrics |= {f"mask_{name}": value for name, value in masks.items()}
    return metrics
