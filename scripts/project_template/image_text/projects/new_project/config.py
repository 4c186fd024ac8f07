"""What can be set; values are in configs/new_project. Nothing heavy is imported here."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.ranges import NonNegative


@dataclass
class MethodConfig:
    """The objective; the temperature is learnt (`model.logit_scale_init`)."""

    pull_weight: NonNegative = 1.0  # lambda, of the squared distance between image and text


@dataclass
class Config(ExperimentConfig):
    """NewProject experiment."""

    data: ImageTextData = field(default_factory=ImageTextData)
    model: TwoTowers = field(default_factory=TwoTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: ImageTextEval = field(default_factory=ImageTextEval)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check_source()
        self.model.check_towers()
