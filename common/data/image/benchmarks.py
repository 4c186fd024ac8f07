"""Labelled image sets of the zero-shot, few-shot and linear-probe protocols, from local folders.

The official layouts are those that torchvision reads; nothing is downloaded. Class names are those
of Radford et al. 2021 (arXiv 2103.00020); templates are of their lists, one to three a set (the
whole lists: `common.evaluation.image_text.clip_templates`).
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, default_collate

from common.config import UserError, first_line, nearest
from common.data.corrupt import CorruptCounter
from common.data.image.class_names import (
    CALTECH,
    COUNTRIES,
    EUROSAT,
    FLOWERS,
    KITTI_DISTANCES,
    TRAFFIC_SIGNS,
    readable,
)
from common.data.image.sources import ImageTransform
from common.data.lookup import require

Part = Literal["train", "test"]


class LabelledBatch(TypedDict):
    """Evaluation batch of labelled images."""

    images: Tensor  # (B, 3, H, W) float32
    labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64 sample indices


@dataclass(frozen=True)
class ImageSet:
    """How one set is read and evaluated.

    Its functions are those of a module, or partial: a set is sent to loader processes with its
    description.

    Attributes:
        folder: what must exist below the data root.
        layout: expected content of `folder`.
        source: official place to get it.
        size: of the download.
        read: opens a part below the data root with torchvision.
        templates: prompt templates with ``{}`` for the class name.
        train_per_class: images per class of the training part where the set has no official parts.
        mean_per_class: whether the protocol's metric is the mean accuracy over classes.
        roc_auc: whether it is the area under the ROC curve of two classes.
        shifted: whether it is ImageNet under a shift of distribution, judged as ImageNet is.
        names: class names in the order of the labels; None: those of the folders, as words.
        train_folder: what must exist for the training part, where it is downloaded by itself.
    """

    folder: str
    layout: str
    source: str
    size: str
    read: Callable[[Path, Part], Any]
    templates: tuple[str, ...] = ("a photo of a {}.",)
    train_per_class: int | None = None
    mean_per_class: bool = False
    roc_auc: bool = False
    shifted: bool = False
    names: Callable[[Any], list[str]] | None = None
    train_folder: str | None = None

    def folder_of(self, part: Part) -> str:
        """What must exist below the data root for a part."""
        return self.train_folder if part == "train" and self.train_folder else self.folder


class LabelledImages(Dataset[dict[str, Any] | None]):
    """Evaluation set of labelled images; an unreadable one is counted and left out of its batch.

    Args:
        data: torchvision set whose items are (PIL image, label).
        indices: items that are used.
        class_names: one per label.
        transform: evaluation transform.
        spec: where it came from, with templates and metric.
        max_corrupt: largest tolerated fraction of unreadable images, in [0, 1].
    """

    def __init__(
        self,
        data: Any,
        indices: Sequence[int],
        class_names: list[str],
        transform: ImageTransform,
        spec: ImageSet,
        max_corrupt: float = 0.01,
    ) -> None:
        self.data, self.indices, self.transform, self.spec = data, list(indices), transform, spec
        self.class_names, self.templates = class_names, list(spec.templates)
        self.counter = CorruptCounter(spec.folder, max_fraction=max_corrupt)

    @property
    def labels(self) -> Tensor:
        """Labels of all samples without opening an image, (N,) int64."""
        labels = labels_of(self.data)
        return torch.tensor([labels[i] for i in self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """One sample, or None if its image cannot be read."""
        try:
            image, label = self.data[self.indices[index]]
        except MemoryError:
            raise
        except Exception as error:  # of many kinds: each format has a decoder of its own
            self.counter.bad(f"item {self.indices[index]}", first_line(error))
            return None
        self.counter.good()
        return {"images": self.transform.one(image), "labels": int(label), "ids": index}

    def collate(self, samples: list[dict[str, Any] | None]) -> LabelledBatch:
        """Batch of the readable samples."""
        readable_ones = [sample for sample in samples if sample is not None]
        if not readable_ones:
            raise UserError(
                f"{self.spec.folder}: no image of a batch of {len(samples)} can be read"
            )
        batch: LabelledBatch = default_collate(readable_ones)
        return batch


def load_image_set(
    name: str, root: Path, transform: ImageTransform, part: Part = "test"
) -> LabelledImages:
    """Open a set of the protocol by name.

    Args:
        name: key of `IMAGE_SETS`.
        root: data root (see `common.data.lookup.data_root`).
        transform: evaluation transform.
        part: ``train`` (for few-shot and linear probes) or ``test``.

    Raises:
        UserError: unknown name, or the files are missing or incomplete.
    """
    if name not in IMAGE_SETS:
        raise UserError(f"unknown image set '{name}'{nearest(name, IMAGE_SETS)}")
    spec = IMAGE_SETS[name]
    folder = require(
        root / spec.folder_of(part),
        what=f"image set '{name}'",
        layout=spec.layout,
        source=spec.source,
        size=spec.size,
    )
    try:
        data = spec.read(root, part)
    except (RuntimeError, OSError, ValueError) as error:  # the readers' answers to such a folder
        raise UserError(
            f"image set '{name}' in {folder} is incomplete ({error}). Expected layout: "
            f"{spec.layout}. Get it from {spec.source} ({spec.size})"
        ) from error
    names = spec.names(data) if spec.names else [readable(c) for c in _classes(data)]
    labels = labels_of(data)
    indices = range(len(labels))
    if spec.train_per_class is not None:
        indices = _part_of(labels, part, spec.train_per_class)  # type: ignore[assignment]
    return LabelledImages(data, indices, names, transform, spec)


def labels_of(data: Any) -> list[int]:
    """Labels of a torchvision set, under whichever name it keeps them."""
    for name in ("targets", "_labels", "labels", "y"):
        if hasattr(data, name):
            return [int(label) for label in getattr(data, name)]
    if hasattr(data, "_samples"):
        return [int(label) for _, label in data._samples]
    raise TypeError(f"{type(data).__name__} does not tell its labels")


def _classes(data: Any) -> list[str]:
    return list(data.classes if hasattr(data, "classes") else data.categories)


def _part_of(labels: Sequence[int], part: Part, train_per_class: int) -> list[int]:
    """Fixed parts: per class the `train_per_class` items of smallest hash train (at most half).

    The hash is of the place in torchvision's listing, which for SUN397 is the file system's order:
    parts of two copies can differ, and are not those that its authors publish.
    """
    by_class = defaultdict[int, list[int]](list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    chosen: list[int] = []
    for members in by_class.values():
        order = sorted(members, key=lambda i: hashlib.blake2b(str(i).encode()).digest())
        cut = min(train_per_class, len(order) // 2)
        chosen += order[:cut] if part == "train" else order[cut:]
    return sorted(chosen)


class Joined(ConcatDataset[Any]):
    """Splits of one torchvision set, one after the other."""

    def __init__(self, splits: Sequence[Any]) -> None:
        super().__init__(splits)
        self.classes = _classes(splits[0])
        self.targets = [label for split in splits for label in labels_of(split)]


def _torchvision(name: str, **parts: str) -> Callable[[Path, Part], Any]:
    """Reader of a torchvision set; `parts` maps our part to its ``split``, or several: ``a+b``."""
    return partial(_read_torchvision, name, parts)


def _read_torchvision(name: str, parts: Mapping[str, str], root: Path, part: Part) -> Any:
    from torchvision import datasets

    reader = getattr(datasets, name)
    if name in ("CIFAR10", "CIFAR100"):
        return reader(root, train=part == "train")
    if not parts:
        return reader(root)
    splits = [reader(root, split=split) for split in parts[part].split("+")]
    return splits[0] if len(splits) == 1 else Joined(splits)


def _folder(train: str, test: str) -> Callable[[Path, Part], Any]:
    """Reader of one folder per class."""
    return partial(_read_folder, train, test)


def _read_folder(train: str, test: str, root: Path, part: Part) -> Any:
    from torchvision.datasets import ImageFolder

    return ImageFolder(str(root / (train if part == "train" else test)))


def _renamed(names: Mapping[str, str]) -> Callable[[Any], list[str]]:
    """Class names of a set, those that are in `names` replaced."""
    return partial(_names_by, names)


def _names_by(names: Mapping[str, str], data: Any) -> list[str]:
    return [names.get(name, readable(name)) for name in _classes(data)]


def _traffic_signs(data: Any) -> list[str]:
    return list(TRAFFIC_SIGNS)


def _imagenet_names(data: Any) -> list[str]:
    """Curated names; the folders sort like the names (synset ids)."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    if len(data.classes) != len(IMAGENET_CLASSNAMES):
        raise UserError(
            f"imagenet needs 1,000 class folders (n01440764, ...), got {len(data.classes)}"
        )
    return list(IMAGENET_CLASSNAMES)


@lru_cache(1)
def _imagenet_places() -> dict[str, int]:
    """Synset id -> place among ImageNet's classes."""
    from timm.data.imagenet_info import ImageNetInfo

    synsets: list[str] = ImageNetInfo().label_names()
    return {synset: place for place, synset in enumerate(synsets)}


def _shifted_names(data: Any) -> list[str]:
    """Curated names of folders that have the synset id or the number of an ImageNet class.

    Raises:
        UserError: a folder of another name.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    places = _imagenet_places()
    names = []
    for folder in data.classes:
        place = int(folder) if folder.isdigit() else places.get(folder, -1)
        if not 0 <= place < len(IMAGENET_CLASSNAMES):
            raise UserError(
                f"{data.root}/{folder}: no synset id and no number of an ImageNet class"
            )
        names.append(IMAGENET_CLASSNAMES[place])
    return names


class ListedImages(Dataset[tuple[Image.Image, int]]):
    """Image files with labels.

    Args:
        files: path and label of each.
        classes: names by label.
        border: pixels that are cut off on every side.
    """

    def __init__(
        self, files: Sequence[tuple[Path, int]], classes: Sequence[str], border: int = 0
    ) -> None:
        self.files, self.classes, self.border = list(files), list(classes), border
        self.targets = [label for _, label in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        edge = self.border
        return image.crop((edge, edge, image.width - edge, image.height - edge)), label


def _read_objectnet(root: Path, part: Part) -> ListedImages:
    """The 113 classes that ImageNet has too, by ObjectNet's names, without their red border.

    Source: Barbu et al. 2019, "ObjectNet", release (mappings and loader), NeurIPS.
    """
    folder = root / "objectnet-1.0"
    mappings = folder / "mappings"
    names = json.loads((mappings / "folder_to_objectnet_label.json").read_text("utf-8"))
    shared = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text("utf-8"))
    kept = sorted((names[place], place) for place in names if names[place] in shared)
    files = [
        (path, label)
        for label, (_, place) in enumerate(kept)
        for path in sorted((folder / "images" / place).glob("*.png"))
    ]
    if not files:
        raise OSError("no picture of a class that ImageNet has too")
    return ListedImages(files, [name.lower() for name, _ in kept], border=2)


def _read_mnist(root: Path, part: Part) -> Any:
    from torchvision.datasets import MNIST

    return MNIST(root, train=part == "train")


def _read_clevr_counts(root: Path, part: Part) -> Any:
    """CLEVR's images by their number of objects, three to ten."""
    from torchvision.datasets import CLEVRClassification

    data: Any = CLEVRClassification(root, split="train" if part == "train" else "val")
    files = [
        (Path(path), int(count) - CLEVR_LEAST)
        for path, count in zip(data._image_files, data._labels, strict=True)
    ]
    return ListedImages(files, [str(count) for count in range(CLEVR_LEAST, 11)])


def _named(*names: str) -> Callable[[Any], list[str]]:
    """Class names that the files do not have."""
    return partial(_listed_names, names)


def _listed_names(names: Sequence[str], data: Any) -> list[str]:
    if len(_classes(data)) != len(names):
        raise UserError(f"{len(names)} classes ({', '.join(names)}) wanted, got {_classes(data)}")
    return list(names)


def _species(data: Any) -> list[str]:
    """CUB's folders as words: 001.Black_footed_Albatross is a Black footed Albatross."""
    return [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in _classes(data)]


CLEVR_LEAST = 3  # objects in an image
_TV = "one folder per class"
_FRAMES = "https://github.com/facebookresearch/SLIP"  # whose layout the release takes over
IMAGE_SETS: dict[str, ImageSet] = {
    "food101": ImageSet(
        "food-101",
        "food-101/{images,meta}",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "5 GB",
        _torchvision("Food101", train="train", test="test"),
        ("a photo of {}, a type of food.",),
    ),
    "cifar10": ImageSet(
        "cifar-10-batches-py",
        "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "170 MB",
        _torchvision("CIFAR10"),
    ),
    "cifar100": ImageSet(
        "cifar-100-python",
        "cifar-100-python/{train,test,meta}",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "170 MB",
        _torchvision("CIFAR100"),
    ),
    "sun397": ImageSet(
        "SUN397",
        "SUN397/ClassName.txt and SUN397/a/abbey/*.jpg",
        "https://vision.princeton.edu/projects/2010/SUN",
        "37 GB",
        _torchvision("SUN397"),
        train_per_class=50,
    ),
    "cars": ImageSet(
        "stanford_cars",
        "stanford_cars/{cars_train,cars_test,devkit,cars_test_annos_withlabels.mat}",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        "1.9 GB",
        _torchvision("StanfordCars", train="train", test="test"),
        names=_classes,
        train_folder="stanford_cars/cars_train",
    ),
    "aircraft": ImageSet(
        "fgvc-aircraft-2013b",
        "fgvc-aircraft-2013b/data/{images,*.txt}",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        "2.8 GB",
        _torchvision("FGVCAircraft", train="trainval", test="test"),
        ("a photo of a {}, a type of aircraft.",),
        mean_per_class=True,
        names=_classes,
    ),
    "dtd": ImageSet(
        "dtd",
        "dtd/dtd/{images,labels,imdb}",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd",
        "600 MB",
        _torchvision("DTD", train="train+val", test="test"),
        ("a photo of a {} texture.",),
    ),
    "pets": ImageSet(
        "oxford-iiit-pet",
        "oxford-iiit-pet/{images,annotations}",
        "https://www.robots.ox.ac.uk/~vgg/data/pets",
        "800 MB",
        _torchvision("OxfordIIITPet", train="trainval", test="test"),
        ("a photo of a {}, a type of pet.",),
        mean_per_class=True,
    ),
    "caltech101": ImageSet(
        "caltech101",
        "caltech101/101_ObjectCategories/<class>/*.jpg",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "130 MB",
        _torchvision("Caltech101"),
        train_per_class=30,
        mean_per_class=True,
        names=_renamed(CALTECH),
    ),
    "flowers": ImageSet(
        "flowers-102",
        "flowers-102/{jpg,imagelabels.mat,setid.mat}",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        "350 MB",
        _torchvision("Flowers102", train="train+val", test="test"),
        ("a photo of a {}, a type of flower.",),
        mean_per_class=True,
        names=_renamed(FLOWERS),
    ),
    "stl10": ImageSet(
        "stl10_binary",
        "stl10_binary/{train,test}_{X,y}.bin, class_names.txt",
        "https://cs.stanford.edu/~acoates/stl10",
        "2.6 GB",
        _torchvision("STL10", train="train", test="test"),
    ),
    "eurosat": ImageSet(
        "eurosat",
        "eurosat/2750/<class>/*.jpg",
        "https://github.com/phelber/EuroSAT",
        "90 MB",
        _torchvision("EuroSAT"),
        ("a centered satellite photo of {}.",),
        train_per_class=1000,
        names=_renamed(EUROSAT),
    ),
    "resisc45": ImageSet(
        "NWPU-RESISC45",
        f"NWPU-RESISC45/<class>/*.jpg, {_TV}",
        "https://gcheng-nwpu.github.io/#Datasets",
        "400 MB",
        _folder("NWPU-RESISC45", "NWPU-RESISC45"),
        ("satellite imagery of {}.", "aerial imagery of {}."),
        train_per_class=70,
    ),
    "gtsrb": ImageSet(
        "gtsrb",
        "gtsrb/{GTSRB/Training,GTSRB/Final_Test,GT-final_test.csv}",
        "https://benchmark.ini.rub.de/gtsrb_news.html",
        "650 MB",
        _torchvision("GTSRB", train="train", test="test"),
        (
            'a zoomed in photo of a "{}" traffic sign.',
            'a centered photo of a "{}" traffic sign.',
            'a close up photo of a "{}" traffic sign.',
        ),
        names=_traffic_signs,
        train_folder="gtsrb/GTSRB/Training",
    ),
    "country211": ImageSet(
        "country211",
        "country211/{train,valid,test}/<two-letter country code>/*.jpg",
        "https://github.com/openai/CLIP/blob/main/data/country211.md",
        "11 GB",
        _torchvision("Country211", train="train", test="test"),
        ("a photo i took in {}.",),
        names=_renamed(COUNTRIES),
        train_folder="country211/train",
    ),
    "imagenet": ImageSet(
        "imagenet/val",
        f"imagenet/{{train,val}}/n01440764/*.JPEG, {_TV} (synset id)",
        "https://www.image-net.org/download.php",
        "150 GB",
        _folder("imagenet/train", "imagenet/val"),
        names=_imagenet_names,
        train_folder="imagenet/train",
    ),
    "mnist": ImageSet(
        "MNIST/raw",
        "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte",
        "https://huggingface.co/datasets/ylecun/mnist",
        "12 MB",
        _read_mnist,
        ('a photo of the number: "{}".',),
        names=_named(*map(str, range(10))),
    ),
    "cub200": ImageSet(
        "cub200",
        f"cub200/{{train,val}}/001.Black_footed_Albatross/*.jpg, {_TV}",
        "https://www.vision.caltech.edu/datasets/cub_200_2011",
        "1.1 GB",
        _folder("cub200/train", "cub200/val"),
        ("a photo of a {}, a type of bird.",),
        names=_species,
    ),
    "kitti_distance": ImageSet(
        "kitti_distance",
        "kitti_distance/{train,val}/{0..3}/*.png: nearest vehicle beside, near, far, none (VTAB)",
        "https://www.cvlibs.net/datasets/kitti",
        "12 GB",
        _folder("kitti_distance/train", "kitti_distance/val"),
        ("{}",),
        names=_named(*KITTI_DISTANCES),
    ),
    "patch_camelyon": ImageSet(
        "patch_camelyon",
        "patch_camelyon/{train,val}/{0,1}/*: without and with tumour tissue",
        "https://github.com/basveeling/pcam",
        "8 GB",
        _folder("patch_camelyon/train", "patch_camelyon/val"),
        ("this is a photo of {}",),
        names=_named("lymph node", "lymph node containing metastatic tumor tissue"),
    ),
    "ucf101": ImageSet(
        "ucf101_frames",
        f"ucf101_frames/{{train,val}}/ApplyEyeMakeup/*.jpg, middle frames, {_TV}",
        _FRAMES,
        "6.5 GB of videos",
        _folder("ucf101_frames/train", "ucf101_frames/val"),
        ("a photo of a person {}.",),
    ),
    "clevr_counts": ImageSet(
        "clevr/CLEVR_v1.0",
        "clevr/CLEVR_v1.0/{images,scenes}",
        "https://cs.stanford.edu/people/jcjohns/clevr",
        "18 GB",
        _read_clevr_counts,
        ("a photo of {} objects.",),
    ),
    "hateful_memes": ImageSet(
        "hateful_memes",
        "hateful_memes/{train,dev}/{0,1}/*.png: harmless and hateful",
        "https://ai.meta.com/tools/hatefulmemes",
        "3.5 GB",
        _folder("hateful_memes/train", "hateful_memes/dev"),
        ("a {}.",),
        roc_auc=True,
        names=_named("meme", "hatespeech meme"),
    ),
    "rendered_sst2": ImageSet(
        "rendered-sst2",
        "rendered-sst2/{train,valid,test}/{negative,positive}/*.png",
        "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        "130 MB",
        _torchvision("RenderedSST2", train="train", test="test"),
        ("a {} review of a movie.",),
    ),
    "imagenet_v2": ImageSet(
        "imagenetv2-matched-frequency-format-val",
        "imagenetv2-matched-frequency-format-val/{0..999}/*.jpeg",
        "https://github.com/modestyachts/ImageNetV2",
        "1.3 GB",
        _folder(*2 * ("imagenetv2-matched-frequency-format-val",)),
        shifted=True,
        names=_shifted_names,
    ),
    "imagenet_r": ImageSet(
        "imagenet-r",
        f"imagenet-r/n01443537/*.jpg, {_TV} (200 synset ids)",
        "https://github.com/hendrycks/imagenet-r",
        "2.2 GB",
        _folder(*2 * ("imagenet-r",)),
        shifted=True,
        names=_shifted_names,
    ),
    "imagenet_a": ImageSet(
        "imagenet-a",
        f"imagenet-a/n01498041/*.jpg, {_TV} (200 synset ids)",
        "https://github.com/hendrycks/natural-adv-examples",
        "700 MB",
        _folder(*2 * ("imagenet-a",)),
        shifted=True,
        names=_shifted_names,
    ),
    "imagenet_sketch": ImageSet(
        "sketch",
        f"sketch/n01440764/*.JPEG, {_TV} (1,000 synset ids)",
        "https://github.com/HaohanWang/ImageNet-Sketch",
        "7 GB",
        _folder(*2 * ("sketch",)),
        shifted=True,
        names=_shifted_names,
    ),
    "objectnet": ImageSet(
        "objectnet-1.0",
        "objectnet-1.0/{images,mappings}",
        "https://objectnet.dev",
        "190 GB",
        _read_objectnet,
        shifted=True,
        names=_classes,
    ),
}


def judged_as_imagenet(name: str) -> bool:
    """Whether a set is ImageNet or ImageNet under a shift; the others are downstream sets.

    >>> judged_as_imagenet("imagenet_r"), judged_as_imagenet("pets")
    (True, False)
    """
    return name == "imagenet" or IMAGE_SETS[name].shifted
