"""``eval.own``: a user's annotated images in COCO's format."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError
from common.data.own_files import readable
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.dito import coco
from projects.dito.config import Config
from projects.dito.detection.drawn_boxes import draw_boxes
from projects.dito.detector import detect
from projects.dito.evaluate import covered, region_kind, regions_of
from projects.dito.module import DITO
from projects.dito.network import DitoNetwork, build_network
from projects.dito.stages import templates_of

SHOWN = 6  # images of a gallery


def judge_boxes(cfg: Config, module: DITO, workspace: Workspace, path: Path) -> dict[str, float]:
    """Names of a user's boxes among the names of the file; recall of boxes after detection.

    Args:
        cfg: the project's config.
        module: trained.
        workspace: takes items, galleries and a note on images that can't be read.
        path: an annotation file; images are relative to its folder, or in ``images/`` there.

    Returns:
        ``num_images``, ``num_boxes``, ``num_classes``, ``num_skipped`` (images that can't be read
        or have no box); ``region_top1`` with ``_chance``, ``untrained_`` and ``majority_`` (the
        most frequent name of the file); ``box_recall`` of a trained detector.

    Raises:
        UserError: no image has a box, or too many images can't be read; see `read_coco`.
    """
    annotated = coco.read_coco(path, "none", training=False)
    with_boxes = [image for image in annotated.images if len(image.labels)]
    if not with_boxes or len(annotated.names) < 2:
        raise UserError(f"{path} needs boxes of two categories or more")
    folder = path.parent
    if not (folder / with_boxes[0].file).is_file() and (folder / "images").is_dir():
        folder = folder / "images"
    kept = readable([folder / image.file for image in with_boxes], workspace.say)
    images = [with_boxes[i] for i in kept]
    raw = untrained(
        lambda: build_network(cfg.model, cfg.detect.rpn_convs), cfg.seed, module.network
    )
    rows: dict[str, list[Tensor]] = {}
    for prefix, network in (("", module.network), ("untrained_", raw)):
        with evaluated(network, cfg.trainer.accelerator):
            kind = region_kind(cfg, network) if not prefix else "map"
            rows[prefix] = _named(cfg, network, images, folder, annotated.names, kind)
    truth = [image.labels - 1 for image in images]
    right = [(a == b).double().mean() for a, b in zip(rows[""], truth, strict=True)]
    workspace.items("region_top1", torch.stack(right).tolist())
    counts = Counter(torch.cat(truth).tolist())
    metrics = {
        "num_images": float(len(images)),
        "num_boxes": float(sum(counts.values())),
        "num_classes": float(len(annotated.names)),
        "num_skipped": float(len(annotated.images) - len(images)),
        "region_top1_chance": 1 / len(annotated.names),
        "majority_region_top1": max(counts.values()) / sum(counts.values()),
    }
    for prefix, found in rows.items():
        hits = torch.cat(found) == torch.cat(truth)
        metrics[f"{prefix}region_top1"] = float(hits.double().mean())
    if "detect" in module.network.trained:
        with evaluated(module.network, cfg.trainer.accelerator):
            metrics["box_recall"] = _recall(cfg, module.network, images, folder, annotated.names)
    order = torch.stack(right).argsort(stable=True).tolist()
    for title, chosen in (("best images", order[::-1][:SHOWN]), ("worst images", order[:SHOWN])):
        gallery = []
        for i in chosen:
            names = [annotated.names[k] for k in rows[""][i].tolist()]
            boxes = images[i].boxes.tolist()
            picture = draw_boxes(coco.opened(folder / images[i].file), boxes, names)
            results = [
                {"item": annotated.names[t], "name": f"named {n}", "score": 0.0, "correct": t == k}
                for t, k, n in zip(truth[i].tolist(), rows[""][i].tolist(), names, strict=True)
            ]
            gallery.append({"query": picture, "results": results})
        workspace.gallery(title, gallery)
    return metrics


def _named(
    cfg: Config,
    network: DitoNetwork,
    images: list[coco.Annotated],
    folder: Path,
    names: list[str],
    kind: str,
) -> list[Tensor]:
    """Nearest name of every box, image by image, as places in `names`."""
    classes = network.classes(names, templates_of(cfg))[1:]
    found = []
    for image in images:
        square, factor = coco.to_square(coco.opened(folder / image.file), cfg.data.image_size)
        device = classes.device
        boxes = (image.boxes * factor)[None].to(device)
        vectors = regions_of(network, square[None].to(device), boxes, kind)[0]
        found.append((vectors @ classes.T).argmax(-1).cpu())
    return found


def _recall(
    cfg: Config,
    network: DitoNetwork,
    images: list[coco.Annotated],
    folder: Path,
    names: list[str],
) -> float:
    """Share of the boxes that a found one overlaps by half."""
    classes = network.classes(names, templates_of(cfg))
    hits = []
    for image in images:
        square, factor = coco.to_square(coco.opened(folder / image.file), cfg.data.image_size)
        (found,) = detect(network, square[None].to(classes.device), classes, cfg.score, None)
        hits.append(covered(image.boxes, found.boxes.cpu() / factor))
    return float(torch.cat(hits).mean())
