"""What can be set in a LaCLIP experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.families.image_text.config import ORIGINAL, ImageTextData, ImageTextEval, TwoTowers
from common.ranges import Count, Inner, Positive, Probability, Seed, Share, Whole

ALIASES = {"coco": "mscoco"}  # spelling of the official script
MAX_VERSIONS = 1000  # of a caption


@dataclass
class LaclipData(ImageTextData):
    """Image-text pairs with rewrites."""

    # texts of an image: the caption, then one rewrite of each source
    texts: list[str] = field(
        default_factory=lambda: [ORIGINAL, "chatgpt", "bard", "mscoco", "human"]
    )
    num_rewrites: Whole | None = None  # M: use the first M rewrites; 0 is CLIP, None takes all
    # instead of the rewrites; num_rewrites is the number of fixed versions then. None: eda and
    # word_dropout alter the caption at every access, of back_translation there is one
    augmentation: Literal["none", "eda", "word_dropout", "back_translation"] = "none"
    # of altering the caption at an access (eda, word_dropout); fixed versions are always altered
    augment_prob: Probability = 1.0
    augment_strength: Inner = 0.1  # share of words changed (eda) or dropped (word_dropout)
    # with_caption: a rewrite keeps the caption's words, before or behind its own; joined: all texts
    # as one fixed caption; framed: each rewrite is the caption in a sentence frame, no word added
    text_form: Literal["given", "with_caption", "joined", "framed"] = "given"

    def __post_init__(self) -> None:
        self.texts = [ALIASES.get(name, name) for name in self.texts]
        super().__post_init__()
        limit = MAX_VERSIONS if self.augmentation != "none" else len(self.texts) - 1
        if self.num_rewrites is not None and self.num_rewrites > limit:
            what = "versions" if self.augmentation != "none" else "rewrites"
            raise ValueError(f"data.num_rewrites must lie between 0 and {limit}, the {what}")
        if self.augmentation != "none" and self.text_form != "given":
            raise ValueError("data.text_form is of rewrites: it needs data.augmentation=none")
        anew = self.augmentation in ("eda", "word_dropout") and self.num_rewrites is None
        if self.augment_prob != 1 and not anew:
            raise ValueError(
                "data.augment_prob is of captions that are altered at every access: it needs "
                "data.augmentation=eda or word_dropout, and data.num_rewrites=null"
            )

    @property
    def text_sources(self) -> list[str]:
        """Sources of the texts read besides the caption, in order."""
        if self.augmentation == "back_translation":
            count = 1 if self.num_rewrites is None else self.num_rewrites
            return [f"back_translation_{i + 1}" for i in range(count)]
        if self.augmentation != "none":  # altered captions are made, not read
            return []
        count = len(self.texts) - 1 if self.num_rewrites is None else self.num_rewrites
        return self.texts[1 : 1 + count]

    @property
    def num_texts(self) -> int:
        """M + 1, the texts that an access draws from."""
        if self.augmentation in ("eda", "word_dropout"):
            return 1 + (self.num_rewrites or 0)
        return 1 if self.text_form == "joined" else 1 + len(self.text_sources)

    def check_source(self) -> None:
        """Refuse a source without its files, and a stream where texts are looked up by sample.

        Raises:
            ValueError: see above.
        """
        super().check_source()
        made = self.augmentation in ("eda", "word_dropout") and bool(self.num_rewrites)
        if self.source == "webdataset" and (self.text_form != "given" or made):
            raise ValueError(
                "data.source=webdataset takes its texts as they are: leave data.text_form=given, "
                "and data.num_rewrites=null with eda or word_dropout"
            )


@dataclass
class MethodConfig:
    """The objective."""

    num_texts: Count = 1  # texts of an image per step; 2 is LaCLIP-MT, 1 LaCLIP
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class RewriteConfig:
    """`make run TASK=rewrite`: a language model writes one rewrite per line."""

    input: str | None = None  # text file, one caption per line, or the CSV of the pairs
    output: str | None = None  # finished chunks are kept in <output>.parts
    model: str = "bundled:stories260k"  # bundled:<name>, local folder or Hugging Face id
    source_type: Literal["chatgpt", "bard", "mscoco", "coco", "human"] = "chatgpt"
    batch_size: Count = 100  # prompts per forward pass
    temperature: Positive = 0.9
    top_p: Share = 0.95
    max_new_tokens: Count = 77
    prompt_budget: Count = 400  # tokens; the official script's default is 512
    seed: Seed = 1  # a line's demonstrations and tokens depend on (seed, line) alone
    device: str = "auto"  # auto: a GPU if there is one


@dataclass
class LaclipEval(ImageTextEval):
    """Zero-shot classification, and retrieval on pairs of one's own."""

    pairs: str | None = (
        None  # CSV path,caption of held-out pairs, below data.root: recall both ways
    )


@dataclass
class Config(ExperimentConfig):
    """LaCLIP experiment."""

    data: LaclipData = field(default_factory=LaclipData)
    model: TwoTowers = field(default_factory=TwoTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: LaclipEval = field(default_factory=LaclipEval)
    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)  # in place of rewrite.model
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of rewrite

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check_source()
        self.model.check_towers()
        available = self.data.num_texts
        if self.method.num_texts > available:
            raise ValueError(
                f"method.num_texts={self.method.num_texts}, but an image has {available} texts"
            )
