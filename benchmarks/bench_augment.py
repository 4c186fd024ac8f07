#!/usr/bin/env python3
"""Two augmented views of an image: our batched pipeline against per-image transforms.

    python benchmarks/bench_augment.py [--quick] [--with-peers]

The same real images, SimCLR's augmentation with the same strengths, one process and one thread, in
rotating order within a round. Ours is what training reads: `TwoViews` over images in memory, with a
generator for every access. Peers run image by image and stack the batch: torchvision's v1 and v2
transforms on PIL images and v2 on uint8 tensors, and lightly's SimCLR transform. Reported are
medians over the rounds, of wall time and of CPU time (which other work on the machine disturbs
less).

Writes benchmarks/results/augment.csv and augment.png, and the table of docs/performance.md; with
--quick only the first two, to build/bench.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from measure import results_folder
from report_tables import write_tables
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2
from vision_report import OURS, Seconds, interleaved, summary, timed, write

from common.data.image.labelled import load_cifar10, resized
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import CachedImages
from projects.dcl.views import TwoViews

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
JITTER, JITTER_PROB, GREY_PROB, SCALE = (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, (0.08, 1.0)
CASES = (  # name, image size, blur probability, batch size, images
    ("CIFAR-10, 32 px", 32, 0.0, 256, 512),
    ("96 px with blur", 96, 0.5, 64, 128),
)
Views = tuple[Tensor, Tensor]


def kernel_of(size: int) -> int:
    """Width of the blur: a tenth of the image, odd, at least 3."""
    return 2 * max(1, size // 20) + 1


def per_image(module: Any, end: Sequence[Any], size: int, blur: float) -> Any:
    """SimCLR's augmentation of torchvision's v1 or v2 transforms."""
    blurred = module.RandomApply([module.GaussianBlur(kernel_of(size), (0.1, 2.0))], p=blur)
    return module.Compose(
        [
            module.RandomResizedCrop(size, scale=SCALE, antialias=True),
            module.RandomHorizontalFlip(),
            module.RandomApply([module.ColorJitter(*JITTER)], p=JITTER_PROB),
            module.RandomGrayscale(GREY_PROB),
            *([blurred] if blur else []),
            *end,
        ]
    )


def twice(transform: Callable[[Any], Tensor], images: Sequence[Any]) -> Views:
    """Two views of each image, stacked."""
    first, second = ([transform(image) for image in images] for _ in range(2))
    return torch.stack(first), torch.stack(second)


def pipelines(images: Tensor, size: int, blur: float) -> dict[str, Callable[[range], Views]]:
    """Contenders: from indices to two views (B, 3, size, size)."""
    crop = SimCLRTransform(
        size,
        scale=SCALE,
        jitter=JITTER,
        jitter_prob=JITTER_PROB,
        grey_prob=GREY_PROB,
        blur_prob=blur,
        mean=MEAN,
        std=STD,
    )
    data = TwoViews(CachedImages(images, crop), seed=0)
    pictures = [v2.functional.to_pil_image(image) for image in images]
    scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    old = per_image(v1, [v1.ToTensor(), v1.Normalize(MEAN, STD)], size, blur)
    new = per_image(v2, [v2.ToImage(), *scaled], size, blur)
    tensors = per_image(v2, scaled, size, blur)

    def ours(rows: range) -> Views:
        batch = data[[(i, 0) for i in rows]]
        return batch["view_1"], batch["view_2"]

    found = {
        OURS: ours,
        "torchvision v1, PIL": lambda rows: twice(old, [pictures[i] for i in rows]),
        "torchvision v2, PIL": lambda rows: twice(new, [pictures[i] for i in rows]),
        "torchvision v2, tensors": lambda rows: twice(tensors, [images[i] for i in rows]),
    }
    try:
        from lightly.transforms import SimCLRTransform as Lightly
    except ImportError:
        print("lightly is not installed: use --with-peers")
        return found
    theirs = Lightly(
        input_size=size,
        cj_prob=JITTER_PROB,
        cj_strength=0.5,
        min_scale=SCALE[0],
        random_gray_scale=GREY_PROB,
        gaussian_blur=blur,
        normalize={"mean": MEAN, "std": STD},
    )

    def lightly(rows: range) -> Views:
        views = [theirs(pictures[i]) for i in rows]
        return torch.stack([a for a, _ in views]), torch.stack([b for _, b in views])

    return {**found, "lightly": lightly}


def check_alike(runs: dict[str, Callable[[range], Views]], rows: range) -> None:
    """Shape, mean and deviation of everyone's views must be those of ours."""
    torch.manual_seed(0)
    wanted = torch.cat(runs[OURS](rows))
    for name, run in runs.items():
        views = torch.cat(run(rows))
        gaps = (views.mean() - wanted.mean()).abs(), (views.std() - wanted.std()).abs()
        if views.shape != wanted.shape or not all(gap <= 0.15 for gap in gaps):
            raise SystemExit(f"{name} augments otherwise: {tuple(views.shape)}, gaps {gaps}")


def epoch_timer(run: Callable[[range], Views], images: int, batch: int) -> Callable[[], Seconds]:
    """Times all batches of a contender."""

    def epoch() -> None:
        for start in range(0, images, batch):
            run(range(start, start + batch))

    return lambda: timed(epoch)


def main() -> None:
    """Measure all cases and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, results in build/bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with-peers", action="store_true", help="install peers in .bench-venv")
    args = parser.parse_args()
    if args.with_peers:
        from bench_losses import enter_peer_environment

        enter_peer_environment()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for case, size, blur, batch, count in CASES:
        images = resized(load_cifar10(None, "test", limit=520).images, size)[:count]
        runs = pipelines(images, size, blur)
        check_alike(runs, range(count))
        timers = {name: epoch_timer(run, count, batch) for name, run in runs.items()}
        measured = interleaved(timers, 1 if args.quick else args.rounds)
        rows += [{"batch": batch, **row} for row in summary(measured, count, case)]
    folder = results_folder(args.quick)
    write(rows, "augment", "Two views per image, one thread", folder)
    if not args.quick:
        write_tables()


if __name__ == "__main__":
    main()
