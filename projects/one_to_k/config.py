"""What can be set; values stand in configs/one_to_k. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.ranges import NonNegative, Positive, Real
from projects.one_to_k import options


@dataclass
class MethodConfig:
    """The objective."""

    # one_to_k; random_language: one text an image (with ITM: the release's cclm_easy);
    # pivot: image with pivot, pivot with another language; finetune: soft labels by image
    objective: Literal["one_to_k", "random_language", "pivot", "finetune"] = "one_to_k"
    need_divm: Real = 0.0  # divisor of the 1-to-K loss: 0 is K, < 0 is 1
    t2i_scale: NonNegative | None = None  # weight of text -> image; None: as need_divm says
    itm_weight: NonNegative = 1.0  # image-text matching; 0 leaves it out
    mlm_weight: NonNegative = 1.0  # masked language modelling on the fused states
    # the text of an image that ITM and MLM see (neg_sample_type 1, 0, 2 of the release)
    positive: Literal["aligned_least", "uniform", "least_similar"] = "aligned_least"
    vicreg: bool = False  # log VICReg's terms, which never enter the loss
    lr_mult: Positive = 2.0  # of newly initialised parameters
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    @property
    def fusion(self) -> bool:
        """Whether the fusion layers are trained."""
        return self.itm_weight > 0 or self.mlm_weight > 0

    @property
    def policy(self) -> Literal["all", "random", "pivot"]:
        """Texts of an image that a step sees."""
        policies: dict[str, Literal["all", "random", "pivot"]]
        policies = {"one_to_k": "all", "pivot": "pivot"}
        return policies.get(self.objective, "random")


@dataclass
class Config(ExperimentConfig):
    """1-to-K experiment."""

    data: options.CrossLingualData = field(default_factory=options.CrossLingualData)
    model: options.ModelConfig = field(default_factory=options.ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: options.EvalConfig = field(default_factory=options.EvalConfig)
    translate: options.TranslateConfig = field(default_factory=options.TranslateConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of translate

    def __post_init__(self) -> None:
        super().__post_init__()
        languages, texts = self.data.languages, self.data.texts_per_image
        if len(set(languages)) != len(languages):
            raise ValueError("data.languages names a language twice")
        if self.data.source == "jsonl" and self.data.files is None:
            raise ValueError("data.source=jsonl needs data.files, such as cc3m/part_*.data")
        if languages and texts is not None and texts > len(languages):
            raise ValueError(
                f"data.texts_per_image={texts}, but there are {len(languages)} languages"
            )
        if self.method.fusion and self.model.text == "ngrams":
            raise ValueError(
                "model.text=ngrams has no fusion layers: set method.itm_weight=0 and "
                "method.mlm_weight=0"
            )
        if self.eval.k_test and self.method.itm_weight == 0:
            raise ValueError("eval.k_test needs a matching head: set method.itm_weight")
        if self.data.source == "captions" and self.method.objective in ("pivot", "finetune"):
            raise ValueError("data.source=captions knows one_to_k and random_language only")
        if self.data.source == "captions" and (self.method.fusion or self.model.text != "ngrams"):
            raise ValueError("data.source=captions needs model.text=ngrams and no itm, no mlm")
        if self.method.objective == "pivot" and languages and self.data.pivot not in languages:
            raise ValueError(f"data.pivot={self.data.pivot} is not among data.languages")
        unknown = sorted(set(self.eval.benchmarks) - set(options.BENCHMARKS))
        if unknown:
            known = ", ".join(options.BENCHMARKS)
            raise ValueError(f"eval.benchmarks {unknown}: use some of {known}")
