"""What can be set in the arena of images with texts."""

from dataclasses import dataclass, field

from arena.losses import LossConfig
from common.config import ExperimentConfig
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.ranges import Count


@dataclass
class ArenaPairs(ImageTextData):
    """Images with one text a step, drawn from ``texts``, or several."""

    num_texts: Count = 1  # of an image in a step, the caption first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_texts > len(self.texts):
            raise ValueError(f"data.num_texts={self.num_texts}, data.texts has {len(self.texts)}")


@dataclass
class Config(ExperimentConfig):
    """One training of one contestant."""

    data: ArenaPairs = field(default_factory=ArenaPairs)
    model: TwoTowers = field(default_factory=TwoTowers)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: ImageTextEval = field(default_factory=ImageTextEval)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check_source()
        self.model.check_towers()
