"""What can be set in an RTD experiment."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.ranges import NonNegative, Positive
from projects.rtd.options import (
    ClipConfig,
    ComposedEval,
    HostConfig,
    MakePhrases,
    MakeTriplets,
    SearchConfig,
    TableConfig,
    TripletData,
)


@dataclass
class MethodConfig:
    """The objective; each ingredient can be switched off."""

    enabled: bool = True  # False: the host alone, whose text tower stays as it is
    tau: Positive = 0.07
    noise_scale: NonNegative = 0.5  # of the noise on the reference's embedding before phi
    frozen_target: bool = True  # target-anchored; False: targets through the student, with gradient
    refined_batch: bool = True  # references as hard negatives, with their own queries
    refined_concat: bool = True  # through phi; False: "reference that condition" as plain text
    gather_negatives: bool = False  # of all ranks; the release has each rank alone
    l2_normalize: bool = False  # before phi
    template: str = "a photo of $ that {}"
    special: str = "a photo of $"


@dataclass
class Config(ExperimentConfig):
    """A host's projection, then RTD of the text tower."""

    data: TripletData = field(default_factory=TripletData)
    model: ClipConfig = field(default_factory=ClipConfig)
    phi: HostConfig = field(default_factory=HostConfig)
    rtd: MethodConfig = field(default_factory=MethodConfig)
    eval: ComposedEval = field(default_factory=ComposedEval)
    search: SearchConfig = field(default_factory=SearchConfig)
    triplets: MakeTriplets = field(default_factory=MakeTriplets)
    phrases: MakePhrases = field(default_factory=MakePhrases)
    table: TableConfig = field(default_factory=TableConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rtd, data = self.rtd, self.data
        if rtd.template.count("$") != 1 or rtd.template.count("{}") != 1:
            raise ValueError(
                "rtd.template needs one $ (the pseudo word) and one {} (the condition)"
            )
        if rtd.special.count("$") != 1:
            raise ValueError("rtd.special needs one $ (the pseudo word)")
        if self.model.open_clip is None and self.model.pretrained == "random":
            raise ValueError("set model.pretrained, or model.open_clip for a random model")
        if not rtd.enabled and self.phi.weights is not None:
            raise ValueError("rtd.enabled=false with phi.weights trains nothing: use make eval")
        if rtd.enabled and data.source == "files" and (data.triplets is None) != data.rules:
            raise ValueError(
                "data.source=files needs data.triplets, or data.rules=true with data.captions"
            )
        if data.source == "files" and data.rules and data.captions is None:
            raise ValueError("data.rules=true needs data.captions, a caption a line")
        if data.source == "files" and self.phi.weights is None:
            if self.phi.host == "lincir" and data.captions is None:
                raise ValueError("phi.host=lincir needs data.captions, or phi.weights")
            if self.phi.host != "lincir" and data.images is None:
                raise ValueError(f"phi.host={self.phi.host} needs data.images, or phi.weights")
        if self.eval.validate and data.source == "files" and self.eval.cirr is None:
            raise ValueError("eval.validate=true with data.source=files needs eval.cirr")
