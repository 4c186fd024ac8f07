"""What can be set in a SimCSE experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.families.sentences.config import (
    SearchConfig,
    SentenceData,
    SentenceLoss,
    StsEval,
    TextModel,
)
from common.ranges import Inner, NonNegative, Real


@dataclass
class SimcseData(SentenceData):
    """Texts and, for the ablation, what replaces dropout as noise."""

    hard_negatives: bool = True  # of rows with three columns; False keeps the pair alone
    # changes every view but the first; dropout stays unless model.dropout=0
    # mlm: the predictions of the masked language model that the encoder starts from
    augment: Literal["none", "crop", "delete", "synonym", "mlm"] = "none"
    augment_rate: Inner = 0.1  # share of the words (mlm: of the tokens; the paper has 0.15 there)


@dataclass
class MethodConfig(SentenceLoss):
    """The objective."""

    hard_negative_logit: Real = 0.0  # log alpha, added to the logit of a row's own hard negative
    same_dropout_mask: bool = False  # ablation: both views through one dropout mask
    mlm_weight: NonNegative = 0.0  # lambda of the masked language modelling term; 0: absent
    mlm_probability: Inner = 0.15  # share of tokens that are masked
    # local: only a rank's own rows have gradient, as released (the gradient is that of the global
    # batch divided by the number of ranks); full: the gradient of the global batch
    gather_grad: Literal["local", "full"] = "local"


@dataclass
class Config(ExperimentConfig):
    """SimCSE experiment."""

    data: SimcseData = field(default_factory=SimcseData)
    model: TextModel = field(default_factory=TextModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: StsEval = field(default_factory=StsEval)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        alike = self.data.source != "nli" and self.data.augment == "none"
        if self.method.same_dropout_mask and not alike:
            raise ValueError(
                "method.same_dropout_mask is for two views of one sentence: no data.source=nli and "
                "no data.augment"
            )
