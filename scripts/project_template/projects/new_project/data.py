"""Images made from a seed; the paper's reader takes this place."""

from torch import Tensor

from common.data.image.sources import CachedImages, TrainTransform
from common.data.image.synthetic import synthetic_pairs
from common.data.module import ContrastiveData
from projects.dcl.views import TwoViews
from projects.new_project.config import Config

NUM_CLASSES = 8


def images(cfg: Config) -> tuple[Tensor, Tensor]:
    """Images (N, 3, S, S) uint8 and classes (N,); the first `num_train` are trained on."""
    data = cfg.data
    found = synthetic_pairs(
        data.num_train + data.num_test,
        num_classes=NUM_CLASSES,
        image_size=data.image_size,
        noise=data.noise,
        seed=cfg.seed,
    )
    return found.images, found.labels


def build_data(cfg: Config) -> ContrastiveData:
    """Two randomly cropped and flipped views of every training image."""
    train = images(cfg)[0][: cfg.data.num_train]
    source = CachedImages(train, TrainTransform(cfg.data.image_size, flip_prob=0.5))
    return ContrastiveData(
        TwoViews(source, seed=cfg.seed),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )
