"""What can be set in the arena of images."""

from dataclasses import dataclass, field

from arena.losses import LossConfig
from common.config import ExperimentConfig
from common.families.images.config import (
    ColourChanges,
    ImageSetData,
    ImageSource,
    ProjectedModel,
    WatchedEval,
)


@dataclass
class ArenaData(ColourChanges, ImageSetData):
    """Images and SimCLR's augmentation of their views."""

    source: ImageSource = "bundled"


@dataclass
class Config(ExperimentConfig):
    """One training of one contestant."""

    data: ArenaData = field(default_factory=ArenaData)
    model: ProjectedModel = field(default_factory=ProjectedModel)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: WatchedEval = field(default_factory=WatchedEval)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eval.check_split(self.data.source)
