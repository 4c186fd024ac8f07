"""Scenes of two drawings as a config asks for them: training pairs and held-out scenes."""

from functools import lru_cache

from common.config import UserError
from common.data.image import sources as im
from common.data.image_text.captions import CaptionLists, TextSource
from common.data.image_text.scenes import NUM_REWRITES, Drawings, Scenes, Split, make_scenes
from common.families.image_text.config import ORIGINAL, ImageTextData
from common.families.image_text.protocol import ImageTextConfig

SOURCES = (ORIGINAL, *(f"rewrite{m + 1}" for m in range(NUM_REWRITES)))
HELD_OUT: dict[tuple[Split, Drawings], int] = {  # nearly all pairs of nouns that there are
    ("dev", "emoji"): 200,
    ("test", "emoji"): 500,
    ("dev", "clipart"): 50,
    ("test", "clipart"): 150,
}
NUM_SCENES = 8000  # of training, where data.num_samples is not set


def scene_pairs(
    cfg: ImageTextConfig, transform: im.ImageTransform
) -> tuple[im.ViewSource, TextSource]:
    """Training scenes, which the seed draws, and those of their texts that the config names.

    Raises:
        UserError: a source of texts that scenes do not have.
    """
    unknown = sorted({*cfg.data.texts} - {*SOURCES})
    if unknown:
        raise UserError(
            f"data.texts: scenes have no source '{unknown[0]}', they have {', '.join(SOURCES)}"
        )
    chosen = [SOURCES.index(name) for name in (ORIGINAL, *cfg.data.text_sources)]
    scenes = training_scenes(cfg)
    texts = [[row[m] for m in chosen] for row in scenes.texts]
    return im.CachedImages(scenes.images, transform), CaptionLists(texts)


def training_scenes(cfg: ImageTextConfig) -> Scenes:
    """The training scenes of a seed."""
    data = cfg.data
    return _scenes(num_scenes(data), "train", cfg.seed, data.image_size, "emoji", data.root)


def held_out_scenes(
    cfg: ImageTextConfig, drawings: Drawings = "emoji", size: int | None = None
) -> Scenes:
    """Scenes of `eval.split`, the same for every seed.

    Args:
        cfg: the experiment's config.
        drawings: emoji as in training, or clip art.
        size: in pixels; None: that of the model's images.
    """
    split = cfg.eval.split
    count, pixels = HELD_OUT[split, drawings], size or cfg.data.image_size
    return _scenes(count, split, 0, pixels, drawings, cfg.data.root)


def num_scenes(data: ImageTextData) -> int:
    """Training scenes of an epoch."""
    return data.num_samples or NUM_SCENES


@lru_cache(maxsize=8)
def _scenes(
    count: int, split: Split, seed: int, size: int, drawings: Drawings, root: str | None
) -> Scenes:
    return make_scenes(count, split=split, seed=seed, size=size, drawings=drawings, root=root)
