"""Config sections that experiments on image sets share; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import DataConfig

# bundled: 10,000 CIFAR-10 images of the repository; the others in their official layouts
ImageSource = Literal[
    "synthetic", "bundled", "cifar10", "cifar100", "stl10", "tiny_imagenet", "imagenet100",
    "imagenet",
]  # fmt: skip


@dataclass
class ImageSetData(DataConfig):
    """Images and the SimCLR augmentation of their views."""

    image_size: int = 32  # input of the encoder in pixels
    cache_size: int | None = None  # side of the cached images, at most twice image_size
    crop_scale: tuple[float, float] = (0.08, 1.0)  # area range of the random resized crop
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)  # of torchvision
    jitter_prob: float = 0.8
    grey_prob: float = 0.2
    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2023, 0.1994, 0.2010)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_size is not None and self.cache_size > 2 * self.image_size:
            raise ValueError("data.cache_size must be at most twice data.image_size")


@dataclass
class FrozenEval:
    """kNN vote and linear probe on frozen features."""

    split: Literal["test", "dev"] = "test"  # dev: held-out training images, to tune on
    ks: list[int] = field(default_factory=lambda: [20, 200])  # neighbourhood sizes
    items_k: int = 20  # neighbours of the primary metric and of galleries, one of ks
    knn_temperature: float = 0.07  # of the weighted vote
    linear_probe: bool = True
    online_probe: bool = False  # train a linear classifier on detached features, to watch
    probe_l2: list[float] = field(default_factory=lambda: [10.0**e for e in range(-6, 3)])
    batch_size: int = 512  # images per forward pass

    def __post_init__(self) -> None:
        if self.items_k not in self.ks:
            raise ValueError(f"eval.items_k={self.items_k} must be one of eval.ks={self.ks}")

    def check_split(self, source: str) -> None:
        """Refuse the development split of sets that have none.

        Raises:
            ValueError: split=dev of another set than the bundled one.
        """
        if self.split == "dev" and source != "bundled":
            raise ValueError("eval.split=dev is a part of data.source=bundled")
