"""Batches of the three stages."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import torch
from braceexpand import braceexpand
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image import sources as im
from common.data.image_text.captions import CaptionedImages, CaptionLists
from common.data.image_text.streaming import CaptionedSamples
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.data.text.tokenizers import ClipTokenizer
from common.engine.experiment import Requirement, bundled_requirement
from common.families.image_text import data as pairs
from common.families.image_text.config import ImageTextData
from projects.dito import coco
from projects.dito.config import Config, DitoData
from projects.dito.scenes import is_base, scenes_of, transform_of

JITTER_STREAM = 71


class DitoBatch(TypedDict):
    """B images with captions, or with boxes."""

    images: Tensor  # (B, 3, S, S), normalised
    ids: Tensor  # (B,) int64
    tokens: NotRequired[Tensor]  # (B, L), of image and region stages
    boxes: NotRequired[list[Tensor]]  # (G, 4) in pixels, of the detect stage
    labels: NotRequired[list[Tensor]]  # (G,) int64 from 1, base classes alone
    masks: NotRequired[list[Tensor]]  # (G, 112, 112) bool inside the boxes, for a mask head


class SceneBoxes(Dataset[Any]):
    """Scenes with the boxes of base names; batches of keys (index, epoch)."""

    def __init__(self, cfg: Config) -> None:
        self.scenes, self.transform = scenes_of(cfg, "train"), transform_of(cfg.data)
        self.base = [is_base(name) for name in self.scenes.names]

    def __len__(self) -> int:
        return len(self.scenes.images)

    def __getitem__(self, keys: Sequence[Key]) -> DitoBatch:
        """A batch."""
        rows = torch.tensor([index for index, _ in keys])
        boxes, labels = [], []
        place = {i: n + 1 for n, i in enumerate(i for i, b in enumerate(self.base) if b)}
        for i in rows.tolist():
            labels_of_scene = self.scenes.labels[i].tolist()
            kept = [
                k for k, label in enumerate(labels_of_scene) if self.base[label]
            ]  # novel: no target
            boxes.append(self.scenes.boxes[i][kept])
            labels.append(torch.tensor([place[labels_of_scene[k]] for k in kept], dtype=torch.long))
        images = self.transform.batch(self.scenes.images[rows])
        return {"images": images, "ids": rows, "boxes": boxes, "labels": labels}


class CocoBoxes(Dataset[Any]):
    """Images of an annotation file with large-scale jitter; batches of keys (index, epoch)."""

    def __init__(self, cfg: Config) -> None:
        data = cfg.data
        path, self.masks = coco.annotation_path(data, True), cfg.model.masks
        self.set = coco.read_coco(path, data.novel, training=True, masks=self.masks)
        self.folder, self.cfg = coco.folder_of(data, True), cfg
        bases = [i for i, b in enumerate(self.set.base) if b]
        self.place = {i + 1: n + 1 for n, i in enumerate(bases)}

    def __len__(self) -> int:
        return len(self.set.images)

    def __getitem__(self, keys: Sequence[Key]) -> DitoBatch:
        """A batch."""
        samples = []
        for index, epoch in keys:
            entry = self.set.images[index]
            rng = sample_rng(self.cfg.seed, epoch, index, JITTER_STREAM)
            picture = coco.opened(self.folder / entry.file)
            marks = torch.tensor([self.place[n] for n in entry.labels.tolist()], dtype=torch.long)
            size, jitter = self.cfg.data.image_size, self.cfg.data.jitter
            outlines = entry.outlines if self.masks else ()
            samples.append(coco.jittered(picture, entry.boxes, marks, size, jitter, rng, outlines))
        batch: DitoBatch = {
            "images": torch.stack([sample.pixels for sample in samples]),
            "ids": torch.tensor([index for index, _ in keys]),
            "boxes": [sample.boxes for sample in samples],
            "labels": [sample.labels for sample in samples],
        }
        return batch | {"masks": [s.masks for s in samples]} if self.masks else batch


def base_names(cfg: Config) -> list[str]:
    """Names of the classes that the detector is trained on, in the order of its labels.

    Raises:
        UserError: a source without boxes.
    """
    if cfg.data.source == "coco":
        annotated = coco.read_coco(
            coco.annotation_path(cfg.data, True), cfg.data.novel, training=True
        )
        return [name for name, b in zip(annotated.names, annotated.base, strict=True) if b]
    return [name for name in scenes_of(cfg, "train").names if is_base(name)]


def training_data(cfg: Config, stage: str, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Loader of a stage: pairs for image and region, boxes for detect.

    Raises:
        UserError: missing files.
    """
    data = cfg.data
    train: Dataset[Any]
    if stage == "detect":
        train = CocoBoxes(cfg) if data.source == "coco" else SceneBoxes(cfg)
    elif data.source in ("shapes", "emoji"):
        scenes = scenes_of(cfg, "train")
        texts = CaptionLists([[scenes.caption(i)] for i in range(len(scenes.images))])
        images = im.CachedImages(scenes.images, transform_of(data))
        train = CaptionedImages(images, texts, tokenizer, seed=cfg.seed)
    else:
        pair_data = pairs_of(data)
        transform = pairs.train_transform(pair_data)
        if data.source == "webdataset":
            samples = CaptionedSamples(transform, tokenizer, seed=cfg.seed)
            train = pairs.shards(pair_data, samples, cfg.seed)
        else:
            train = CaptionedImages(
                *pairs.official_files(pair_data, transform, ""), tokenizer, seed=cfg.seed
            )
    return ContrastiveData(
        train, batch_size=data.batch_size, seed=cfg.seed, num_workers=data.num_workers
    )


def pairs_of(data: DitoData) -> ImageTextData:
    """The section as the readers of image-text pairs take it."""
    source: Literal["webdataset", "csv"] = "webdataset" if data.source == "webdataset" else "csv"
    return ImageTextData(
        root=data.root,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        source=source,
        captions=data.captions,
        images=data.images,
        shards=data.shards,
        num_samples=data.num_samples,
        image_size=data.image_size,
        crop_scale=data.crop_scale,
        normalize="clip",
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What must lie on disk."""
    return (*_data_requirements(cfg.data), *_other_requirements(cfg))


def _other_requirements(cfg: Config) -> list[Requirement]:
    """The weights that the first stage starts from, and the library that judges detections."""
    needed, start = [], cfg.model.init_from
    if start is not None or cfg.method.needs_start():
        there = start is not None and (Path(start).expanduser() / "model.safetensors").is_file()
        hint = "set model.init_from to the folder that make export wrote of an earlier stage"
        needed.append(Requirement("weights: model.init_from", start or "not set", there, hint))
    if cfg.eval.detections:
        name = "faster_coco_eval"
        there = importlib.util.find_spec(name) is not None
        needed.append(
            Requirement(
                "library: faster-coco-eval", "group eval", there, "install the 'eval' group"
            )
        )
    return needed


def _data_requirements(data: DitoData) -> tuple[Requirement, ...]:
    if data.source == "emoji":
        return tuple(bundled_requirement(name) for name in ("emoji-captions", "clipart"))
    if data.source == "coco":
        files = [("train", data.train_json)] if data.train_json else []
        needed = []
        for name, _ in [*files, ("eval", data.eval_json)]:
            path = coco.annotation_path(data, name == "train")
            needed.append(Requirement(f"data: {path.name}", str(path), path.exists(), coco.SOURCE))
            images = coco.folder_of(data, name == "train")
            needed.append(
                Requirement(f"data: {images.name}", str(images), images.is_dir(), coco.SOURCE)
            )
        return tuple(needed)
    if data.source in ("csv", "webdataset"):
        first = (
            str(data.captions)
            if data.source == "csv"
            else next(iter(braceexpand(str(data.shards))))
        )
        path = data_root(data.root) / first
        hint = "image-text pairs, as the card says"
        return (Requirement(f"data: {path.name}", str(path), path.exists(), hint),)
    return ()


def num_samples(cfg: Config) -> int:
    """Training samples of an epoch; of files that are absent, what the config says."""
    data = cfg.data
    if data.source in ("shapes", "emoji"):
        return data.scenes
    if data.source in ("csv", "webdataset"):
        return pairs.num_samples(pairs_of(data))
    path = coco.annotation_path(data, True)
    if not path.exists():
        return data.num_samples or 64
    return len(coco.read_coco(path, data.novel, training=True).images)
