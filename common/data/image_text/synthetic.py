"""Captioned images made from a seed, for smoke runs, tests and benchmarks: need no files."""

from common.data.image.sources import CachedImages, TrainTransform
from common.data.image.synthetic import synthetic_pairs
from common.data.image_text.captions import CaptionedImages, CaptionLists, TextPolicy
from common.data.text.tokenizers import TextTokenizer


def synthetic_captioned_images(
    tokenizer: TextTokenizer,
    *,
    seed: int,
    num_samples: int = 64,
    image_size: int = 32,
    num_rewrites: int = 4,
    text_policy: TextPolicy = "random",
    num_texts: int = 1,
) -> CaptionedImages:
    """Training set of `synthetic_pairs`, as `common.data.image_text.captions.CaptionedImages`."""
    pairs = synthetic_pairs(
        num_samples, image_size=image_size, num_rewrites=num_rewrites, seed=seed
    )
    return CaptionedImages(
        CachedImages(pairs.images, TrainTransform(image_size)),
        CaptionLists(pairs.texts),
        tokenizer,
        seed=seed,
        text_policy=text_policy,
        num_texts=num_texts,
    )
