"""What can be set of the views of images and texts."""

from dataclasses import dataclass
from typing import Literal

from common.families.image_text.config import ImageTextData
from common.ranges import Count, Interval, NonNegative, Probability, Rate, Whole


@dataclass
class RocketData(ImageTextData):
    """Pairs as a clean view and K augmented views of image and text."""

    photos: Whole = 0  # CIFAR-10 photographs next to the drawings of source=pool, drawn by the seed
    photo_share: Rate = 0.25  # of the samples, in expectation
    num_augs: Whole = 2  # K; 0 is CLIP on the clean pair
    captions_of_views: Literal["single", "multi"] = "single"  # one text for all views, or for each
    image_augmentation: bool = True  # False: views are further weak crops
    view_size: Count | None = None  # pixels of the augmented images; None: image_size
    view_scale: Interval = (0.08, 1.0)  # area range of their crops
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.4, 0.4, 0.4, 0.1)
    jitter_prob: Probability = 0.8
    grey_prob: Probability = 0.2
    blur_prob: Probability = 0.5
    solarise_prob: Probability = 0.0
    asymmetric: bool = False  # BYOL's two views: jitter .4 .4 .2 .1, blur 1 / .1, solarise 0 / .2
    text_augmentation: bool = True  # False: texts of the views change as the clean one does
    remove_stopwords_prob: Probability = 0.8  # of clean and augmented texts
    # synonym replacement, swap, deletion, identity
    eda_weights: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.4, 0.4, 0.2, 0.0)
    eda_synonyms: bool = True  # False: no WordNet
    # of the synonyms: folder of WordNet's database files, below data.root; None: the bundled part
    wordnet: str | None = None
    clean_before_augment: bool = False  # lower-case and repair texts first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.photos and self.source != "pool":
            raise ValueError("data.photos needs data.source=pool")
        if self.asymmetric and self.num_augs != 2:
            raise ValueError("data.asymmetric needs data.num_augs=2")
