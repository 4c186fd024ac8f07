"""What can be set in a DebCSE experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.families.sentences.config import (
    Pooling,
    SearchConfig,
    SentenceData,
    SentenceLoss,
    StsEval,
    TextModel,
)
from common.ranges import (
    Cosine,
    Count,
    NonNegative,
    Positive,
    Probability,
    Rate,
    Share,
    Whole,
    above,
)


@dataclass
class DebcseData(SentenceData):
    """Unlabelled sentences: anchors and candidates alike."""

    nli_sentences: Whole = (
        0  # sentences of the bundled NLI set, without labels, added to the source
    )


@dataclass
class MethodConfig(SentenceLoss):
    """The objective."""

    hard_weight: Positive = 1.0  # alpha, weight of a row's own hard negative in the denominator
    twin_weight: NonNegative = 0.0  # of a second term with the dropout twin as positive


@dataclass
class ScorerConfig:
    """The frozen encoder g that measures semantic similarity."""

    # see common.encoders.resolve_pretrained; None: trained with dropout twins as the first stage
    model: str | None = None
    pooling: Pooling = "avg"  # of scorer.model
    whiten: bool = False  # measure cosines after whitening, fitted on the corpus


@dataclass
class SurfaceConfig:
    """Surface similarity s in [0, 1]."""

    kind: Literal["word_levenshtein", "char_levenshtein", "jaccard"] = "word_levenshtein"


@dataclass
class PoolConfig:
    """Candidates of every anchor."""

    pos_k: Whole = 20  # corpus neighbours by cosine of the scorer
    twin: bool = True  # the sentence itself is a candidate for its positive
    repetition: bool = True  # a copy with repeated words is another
    paraphrases: str | None = None  # folder of `make run TASK=paraphrase`: one more each
    neg_lex: Whole = 25  # corpus sentences of the highest BM25 score
    neg_rand: Whole = 25  # random ones
    block_size: Count = 2048  # anchors per block of the offline stage


@dataclass
class IpwConfig:
    """Sampling probabilities, and the switches of the ablations."""

    # ipw: weighted draw; uniform: evenly from the same pool; self: dropout twin; augmented: both
    # views with words dropped, no pool
    positives: Literal["ipw", "uniform", "self", "augmented"] = "ipw"
    negatives: Literal["ipw", "uniform", "none"] = "ipw"  # none: in-batch negatives only
    surface: bool = True  # inverse propensity; False: semantic-only sampling
    semantic: bool = True  # utility and thresholds; False: surface-only sampling
    surface_temperature: Annotated[float, above(0, infinite=True)] = (
        0.2  # lambda of the propensity; .inf is the same as surface=false
    )
    semantic_temperature: Positive = 0.1  # kappa of the utility
    negative_temperature: Positive | None = None  # kappa of the negatives; None: the same
    clip: Positive | None = 10.0  # inverse propensities are cut at this times the pool's size
    theta_pos: Cosine | None = None  # least cosine of a positive; None: by quantile
    theta_neg: Cosine | None = None  # largest cosine of a negative; None: by quantile
    theta_pos_quantile: Probability = 0.95  # of the cosines of all semantic neighbours
    theta_neg_quantile: Probability = 0.5  # of the cosines of all lexical neighbours
    word_drop_prob: Rate = 0.1  # positives=augmented

    def __post_init__(self) -> None:
        if self.positives == "augmented" and self.negatives != "none":
            raise ValueError("ipw.positives=augmented is a baseline: it needs ipw.negatives=none")

    @property
    def draws(self) -> bool:
        """Whether anything is drawn from a pool."""
        return self.positives in ("ipw", "uniform") or self.negatives != "none"


@dataclass
class ParaphraseConfig:
    """`make run TASK=paraphrase`: one paraphrase per sentence by a local causal LM."""

    model: str = "bundled:stories260k"
    output: str | None = None  # folder, becomes pool.paraphrases
    limit: Count | None = None  # sentences, the first of the corpus
    temperature: Positive = 0.8
    top_p: Share = 0.95
    max_new_tokens: Count = 40
    prompt_budget: Count = 160  # tokens of a sentence; a longer one stays as it is
    batch_size: Count = 16


@dataclass
class Config(ExperimentConfig):
    """DebCSE experiment."""

    data: DebcseData = field(default_factory=DebcseData)
    model: TextModel = field(default_factory=TextModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    surface: SurfaceConfig = field(default_factory=SurfaceConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    ipw: IpwConfig = field(default_factory=IpwConfig)
    paraphrase: ParaphraseConfig = field(default_factory=ParaphraseConfig)
    eval: StsEval = field(default_factory=StsEval)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.twin_weight and not self.ipw.draws:
            raise ValueError(
                "method.twin_weight adds the dropout twin to drawn pairs; with "
                f"ipw.positives={self.ipw.positives} and ipw.negatives=none nothing is drawn: set "
                "method.twin_weight=0, or draw positives or negatives"
            )

    @property
    def num_views(self) -> int:
        """Texts that the encoder sees per anchor."""
        return 2 + (self.ipw.negatives != "none") + (self.method.twin_weight > 0)
