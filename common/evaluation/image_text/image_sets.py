"""Zero-shot, few-shot, kNN and linear-probe protocol of CLIP-like models on labelled image sets.

The sets are those of `common.data.image.benchmarks`: ImageNet and the fifteen downstream sets of the
CLIP literature, in their official layouts on disk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.config import UserError, nearest
from common.data.image.benchmarks import IMAGE_SETS, LabelledImages, load_image_set
from common.data.image.sources import ImageTransform
from common.data.lookup import require
from common.evaluation.features.few_shot import few_shot_class_mean
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.features.linear_probe import linear_probe
from common.evaluation.image_text.zeroshot import class_embeddings, zeroshot_accuracy

PROTOCOLS = ("zeroshot", "few_shot", "knn", "linear_probe")
WAYS, SHOTS, QUERIES, EPISODES = 5, 5, 15, 600
NEIGHBOURS = 20


class ImageSetProtocol:
    """What is measured on a labelled image set, and with which model.

    Args:
        embed: images (B, 3, H, W) -> projected embeddings (B, D) and features (B, F) before the
            projection; model in evaluation mode, any device.
        encode_text: B sentences -> (B, D).
        transform: evaluation transform of the images.
        root: folder of the sets.
        protocols: of zeroshot, few_shot, knn, linear_probe. Zero-shot and kNN take the projected
            embeddings, the others the features.
        templates: by set name, instead of the set's own.
        batch_size: images per forward pass.
        num_workers: loader processes.
        seed: of the few-shot episodes and of the probe's validation split.
        progress: (batches, description, total) -> batches.

    Raises:
        UserError: unknown protocol.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], tuple[Tensor, Tensor]],
        encode_text: Callable[[list[str]], Tensor],
        transform: ImageTransform,
        root: Path,
        *,
        protocols: Sequence[str] = ("zeroshot",),
        templates: Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        progress: Callable[[Iterable[Any], str, int], Iterable[Any]] = lambda items, *_: items,
    ) -> None:
        for name in protocols:
            if name not in PROTOCOLS:
                raise UserError(f"unknown protocol '{name}'{nearest(name, PROTOCOLS)}")
        self.embed, self.encode_text, self.transform = embed, encode_text, transform
        self.root, self.protocols, self.templates = root, list(protocols), dict(templates or {})
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.progress = progress

    def __call__(self, names: Sequence[str]) -> dict[str, float]:
        """Metrics ``<set>_<protocol>_...`` of the sets, and the zero-shot mean over all but ImageNet.

        The mean takes each set's own metric: accuracy, or mean per class where that is customary.
        """
        require_image_sets(names, self.root)
        metrics: dict[str, float] = {}
        for name in names:
            metrics |= {f"{name}_{key}": value for key, value in self._one(name).items()}
        downstream = [name for name in names if name != "imagenet"]
        if "zeroshot" in self.protocols and len(downstream) > 1:
            values = [metrics[main_metric(name)] for name in downstream]
            metrics["zeroshot_average"] = sum(values) / len(values)
        return metrics

    def _one(self, name: str) -> dict[str, float]:
        test = load_image_set(name, self.root, self.transform, "test")
        embeddings, features, labels = self._embed(test)
        metrics: dict[str, float] = {}
        if "zeroshot" in self.protocols:
            templates = self.templates.get(name, test.templates)
            weights = class_embeddings(self.encode_text, test.class_names, templates).cpu()
            found = zeroshot_accuracy(embeddings, labels, weights)
            metrics |= {f"zeroshot_{key}": value for key, value in found.items()}
        if "few_shot" in self.protocols:
            large = (torch.bincount(labels) >= SHOTS + QUERIES)[
                labels
            ]  # classes with enough images
            metrics |= few_shot_class_mean(
                features[large], labels[large], ways=WAYS, shots=SHOTS, queries=QUERIES,
                episodes=EPISODES, seed=self.seed,
            )  # fmt: skip
        if {"knn", "linear_probe"} & set(self.protocols):
            known, x, y = self._embed(load_image_set(name, self.root, self.transform, "train"))
            options: dict[str, Any] = {"num_classes": len(test.class_names)}
            if "knn" in self.protocols:
                ks = (min(NEIGHBOURS, len(known)),)
                metrics |= knn_accuracy(known, y, embeddings, labels, ks=ks, **options)
            if "linear_probe" in self.protocols:
                metrics |= linear_probe(x, y, features, labels, seed=self.seed, **options)
        return metrics

    def _embed(self, data: LabelledImages) -> tuple[Tensor, Tensor, Tensor]:
        """Projected embeddings (N, D), features (N, F) and labels (N,) of the readable images."""
        loader = DataLoader(
            data, self.batch_size, num_workers=self.num_workers, collate_fn=data.collate
        )
        parts = []
        for batch in self.progress(loader, data.spec.folder, len(loader)):
            projected, features = self.embed(batch["images"])
            parts.append((projected.float().cpu(), features.float().cpu(), batch["labels"]))
        embeddings, features, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return embeddings, features, labels


def main_metric(name: str) -> str:
    """Key of a set's zero-shot metric: top-1, or mean per class where that is customary.

    >>> main_metric("cifar10"), main_metric("pets")
    ('cifar10_zeroshot_top1', 'pets_zeroshot_mean_per_class')
    """
    return f"{name}_zeroshot_{'mean_per_class' if IMAGE_SETS[name].mean_per_class else 'top1'}"


def require_image_sets(names: Sequence[str], root: Path) -> None:
    """Say which set is missing; cheap enough to be asked before training.

    Raises:
        UserError: unknown name, or a set that is not below `root`.
    """
    for name in names:
        if name not in IMAGE_SETS:
            raise UserError(f"unknown image set '{name}'{nearest(name, IMAGE_SETS)}")
        spec = IMAGE_SETS[name]
        require(
            root / spec.folder, what=f"image set '{name}'", layout=spec.layout,
            source=spec.source, size=spec.size,
        )  # fmt: skip
