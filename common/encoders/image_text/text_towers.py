"""Text towers of dual encoders by name."""

from common.encoders.image_text.bag_of_words import BagOfWords
from common.encoders.image_text.clip_text import ClipTextTransformer

TEXT_TOWERS: dict[str, type[ClipTextTransformer] | type[BagOfWords]] = {
    "clip": ClipTextTransformer,
    "bag": BagOfWords,
}
