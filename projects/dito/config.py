"""What can be set in a DITO experiment."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from projects.dito.options import (
    DetectConfig,
    DitoData,
    EvalConfig,
    MethodConfig,
    ModelConfig,
    RunConfig,
    ScoreConfig,
)


@dataclass
class Config(ExperimentConfig):
    """Experiment with DITO."""

    data: DitoData = field(default_factory=DitoData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check()
        stages, source = self.method.stages, self.data.source
        if "detect" in stages and stages.index("detect") != len(stages) - 1:
            raise ValueError("method.stages: detect comes last, and once")
        if "detect" in stages and source in ("csv", "webdataset"):
            raise ValueError("method.stages: detect needs boxes: data.source=coco (or scenes)")
        if source == "coco" and stages != ["detect"]:
            raise ValueError("data.source=coco trains method.stages=[detect]: it has no captions")
        if self.method.image_steps is None and stages[0] == "image" and len(stages) > 1:
            raise ValueError("several stages need method.image_steps, those of the first")
        if "detect" in stages and len(stages) > 1 and self.method.detect_steps is None:
            raise ValueError("several stages need method.detect_steps")
