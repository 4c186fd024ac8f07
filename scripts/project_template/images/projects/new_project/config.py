"""What can be set; values are in configs/new_project. Nothing heavy is imported here."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from common.families.images.config import (
    ColourChanges,
    ImageSetData,
    ImageSource,
    ProjectedModel,
    WatchedEval,
)
from common.ranges import NonNegative, Positive


@dataclass
class NewProjectData(ColourChanges, ImageSetData):
    """Images and the augmentation of their views."""

    source: ImageSource = "bundled"


@dataclass
class MethodConfig:
    """The objective."""

    temperature: Positive = 0.1  # tau, divides the cosines
    pull_weight: NonNegative = 1.0  # lambda, of the squared distance between the views


@dataclass
class Config(ExperimentConfig):
    """NewProject experiment."""

    data: NewProjectData = field(default_factory=NewProjectData)
    model: ProjectedModel = field(default_factory=ProjectedModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: WatchedEval = field(default_factory=WatchedEval)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eval.check_split(self.data.source)
