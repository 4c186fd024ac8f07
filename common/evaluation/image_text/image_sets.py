"""Zero-shot, few-shot, kNN and linear-probe protocol of CLIP-like models on labelled image sets.

The sets are those of `common.data.image.benchmarks`: ImageNet, its shifted versions and the
downstream sets of the CLIP literature, in their official layouts on disk.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.config import UserError, nearest
from common.data.image.benchmarks import (
    IMAGE_SETS,
    LabelledImages,
    Part,
    judged_as_imagenet,
    load_image_set,
)
from common.data.image.sources import ImageTransform
from common.data.lookup import require
from common.evaluation.features.few_shot import few_shot_class_mean
from common.evaluation.features.knn import knn_accuracy
from common.evaluation.features.linear_probe import linear_probe
from common.evaluation.image_text.zeroshot import class_embeddings, zeroshot_accuracy

PROTOCOLS = ("zeroshot", "few_shot", "knn", "linear_probe")
TRAINED = {"knn", "linear_probe"}  # these read the training part
DOWNSTREAM = "downstream"  # all sets but ImageNet and its shifted versions
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
        protocols: of zeroshot, few_shot, knn, linear_probe, see `protocols_of`. Zero-shot and kNN
            take the projected embeddings, the others the features.
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
        check_protocols(protocols)
        self.embed, self.encode_text, self.transform = embed, encode_text, transform
        self.root, self.protocols, self.templates = root, list(protocols), dict(templates or {})
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.progress = progress

    def __call__(self, names: Sequence[str]) -> dict[str, float]:
        """Metrics ``<set>_<protocol>_...``, and the zero-shot mean over the downstream sets.

        The mean takes each set's own metric: accuracy, or mean per class where that is customary.
        """
        require_image_sets(names, self.root, self.protocols)
        metrics: dict[str, float] = {}
        for name in names:
            metrics |= {f"{name}_{key}": value for key, value in self._one(name).items()}
        downstream = [main_metric(name) for name in names if not judged_as_imagenet(name)]
        values = [metrics[key] for key in downstream if key in metrics]
        if len(values) > 1:
            metrics["zeroshot_average"] = sum(values) / len(values)
        return metrics

    def _one(self, name: str) -> dict[str, float]:
        test = load_image_set(name, self.root, self.transform, "test")
        embeddings, features, labels = self._embed(test)
        protocols = protocols_of(name, self.protocols)
        metrics: dict[str, float] = {}
        if "zeroshot" in protocols:
            templates = self.templates.get(name, test.templates)
            weights = class_embeddings(self.encode_text, test.class_names, templates).cpu()
            scores = zeroshot_accuracy(embeddings, labels, weights)
            metrics |= {f"zeroshot_{key}": value for key, value in scores.items()}
        if "few_shot" in protocols:
            large = (torch.bincount(labels) >= SHOTS + QUERIES)[
                labels
            ]  # classes with enough images
            metrics |= few_shot_class_mean(
                features[large],
                labels[large],
                ways=WAYS,
                shots=SHOTS,
                queries=QUERIES,
                episodes=EPISODES,
                seed=self.seed,
            )
        if TRAINED & set(protocols):
            train_part, x, y = self._embed(load_image_set(name, self.root, self.transform, "train"))
            options: dict[str, Any] = {"num_classes": len(test.class_names)}
            if "knn" in protocols:
                ks = (min(NEIGHBOURS, len(train_part)),)
                metrics |= knn_accuracy(train_part, y, embeddings, labels, ks=ks, **options)
            if "linear_probe" in protocols:
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


def protocols_of(name: str, protocols: Sequence[str]) -> list[str]:
    """The protocols of a set; one may apply to a single set, or to all downstream sets.

    >>> protocols_of("imagenet", ["zeroshot", "imagenet:knn", "downstream:linear_probe"])
    ['zeroshot', 'knn']
    >>> protocols_of("pets", ["zeroshot", "imagenet:knn", "downstream:linear_probe"])
    ['zeroshot', 'linear_probe']
    """
    of_set = {"", name, *([] if judged_as_imagenet(name) else [DOWNSTREAM])}
    parts = [protocol.rpartition(":") for protocol in protocols]
    return [protocol for judged, _, protocol in parts if judged in of_set]


def check_protocols(protocols: Sequence[str]) -> None:
    """Refuse a protocol that does not exist, or a set that does not.

    Raises:
        UserError: see above.
    """
    for judged, _, name in (protocol.rpartition(":") for protocol in protocols):
        if name not in PROTOCOLS:
            raise UserError(f"unknown protocol '{name}'{nearest(name, PROTOCOLS)}")
        if judged not in ("", DOWNSTREAM, *IMAGE_SETS):
            names = (DOWNSTREAM, *IMAGE_SETS)
            raise UserError(
                f"unknown image set '{judged}' of '{judged}:{name}'{nearest(judged, names)}"
            )


def set_folders(name: str, root: Path, protocols: Sequence[str]) -> dict[Part, Path]:
    """What must exist for the protocols of a set: its test part, and a training part next to it."""
    spec = IMAGE_SETS[name]
    folders: dict[Part, Path] = {"test": root / spec.folder}
    if spec.train_folder and TRAINED & set(protocols_of(name, protocols)):
        folders["train"] = root / spec.train_folder
    return folders


def require_image_sets(
    names: Sequence[str], root: Path, protocols: Sequence[str] = ("zeroshot",)
) -> None:
    """Report which set or part is missing; cheap enough to call before training.

    Raises:
        UserError: unknown name or protocol, or a set that is not below `root`.
    """
    check_protocols(protocols)
    for name in names:
        if name not in IMAGE_SETS:
            raise UserError(f"unknown image set '{name}'{nearest(name, IMAGE_SETS)}")
        spec = IMAGE_SETS[name]
        for folder in set_folders(name, root, protocols).values():
            require(
                folder,
                what=f"image set '{name}'",
                layout=spec.layout,
                source=spec.source,
                size=spec.size,
            )
