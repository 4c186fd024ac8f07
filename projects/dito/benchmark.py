"""CPU time of DITO's box head, and of average precision by faster-coco-eval against pycocotools.

The head: RoIAlign over two levels, convolutions, vectors, forward and backward, for 1 to 16 boxes
an image (mini config, batch 64, one thread), alongside the frozen backbone's own pass. Evaluation:
made-up detections of 80 classes; pycocotools is left out where it is not installed (it is in no
group).

    python -m projects.dito.benchmark [--quick]
"""

import argparse
import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.measure import results_folder, write_rows
from common.config import UserError, load
from common.engine.workspace import cpu_name
from projects.dito.config import Config
from projects.dito.detection.boxes import random_boxes
from projects.dito.detection.coco_boxes import box_metrics
from projects.dito.detection.roi_align import with_image
from projects.dito.network import build_network

RESULTS = results_folder(quick=False)


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """Median CPU seconds after one call for nothing."""
    call()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def head_rows(rounds: int) -> list[dict[str, Any]]:
    """Backbone once, and pyramid with head by number of boxes."""
    cfg = load(Config, "dito", "mini")
    torch.manual_seed(0)
    network, images = build_network(cfg.model), torch.randn(64, 3, 64, 64)
    with torch.no_grad():
        grid = network.detector_map(images)
        rows = [
            {
                "what": "frozen backbone with SWL",
                "seconds": seconds(lambda: network.detector_map(images), rounds),
            }
        ]
    for count in (1, 4, 8, 16):
        rng = np.random.default_rng(0)
        boxes = [torch.from_numpy(random_boxes(rng, count)) * 64 for _ in range(64)]

        def step(boxes: list[torch.Tensor] = boxes) -> None:
            maps = network.pyramid(grid)
            network.head.embed(network.crops(maps, with_image(boxes))).square().sum().backward()

        rows.append({"what": f"pyramid and head, R={count}", "seconds": seconds(step, rounds)})
    return rows


def made_up(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations of 80 classes and 100 detections an image."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "info": {},
        "images": [{"id": i, "height": 500, "width": 500} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in range(1, 81)],
        "annotations": [],
    }
    detections = []
    for image in range(1, images + 1):
        for _ in range(7):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(10, 200, 2)]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for _ in range(100):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(10, 200, 2)]
            detections.append(
                {
                    "image_id": image,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": box,
                    "score": float(rng.random()),
                }
            )
    return truth, detections


def evaluation_rows(images: int) -> list[dict[str, Any]]:
    """Both libraries on the same detections; figures are compared."""
    truth, detections = made_up(images)
    start = time.process_time()
    try:
        ours = box_metrics(truth, detections)["ap"]
    except UserError as error:
        print(error)
        return []
    rows = [
        {
            "what": f"box_metrics (faster-coco-eval), {images} images",
            "seconds": time.process_time() - start,
        }
    ]
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        print("pycocotools is not installed: no comparison")
        return rows
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = copy.deepcopy(truth)
        gold.createIndex()
        judged = COCOeval(gold, gold.loadRes(copy.deepcopy(detections)), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    rows.append({"what": f"pycocotools, {images} images", "seconds": time.process_time() - start})
    assert abs(judged.stats[0] - ours) < 1e-9, (judged.stats[0], ours)
    return rows


def main() -> None:
    """Print and write benchmarks/results/dito.csv (not with --quick)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, few images, no file")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = head_rows(1 if quick else 5) + evaluation_rows(50 if quick else 1000)
    for row in rows:
        row |= {"seconds": round(row["seconds"], 4), "cpu": cpu_name()}
        print(f"{row['what']:45s} {row['seconds']:.4f} s")
    if not quick:
        write_rows(rows, RESULTS / "dito.csv")


if __name__ == "__main__":
    main()
