"""What can be set in a LaCLIP experiment."""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig

ORIGINAL = "original"
ALIASES = {"coco": "mscoco"}  # spelling of the official script


@dataclass
class LaclipData(DataConfig):
    """Image-text pairs with rewrites."""

    source: Literal["synthetic", "pool", "csv", "webdataset"] = "csv"
    captions: str | None = None  # CSV path,caption without header, below data.root
    images: str | None = None  # folder of the CSV's image paths, below data.root; None: the CSV's
    shards: str | None = None  # webdataset pattern such as laion/{00000..41407}.tar
    num_samples: int | None = None  # samples of a stream or a synthetic set per epoch
    # texts of an image: the caption, then one rewrite of each source
    texts: list[str] = field(
        default_factory=lambda: [ORIGINAL, "chatgpt", "bard", "mscoco", "human"]
    )
    num_rewrites: int | None = None  # M: use the first M rewrites; 0 is CLIP, None takes all
    augmentation: Literal["none", "eda", "word_dropout", "back_translation"] = "none"
    augment_prob: float = 1.0  # probability that a drawn text is altered (eda, word_dropout)
    augment_strength: float = 0.1  # share of words changed (eda) or dropped (word_dropout)
    image_size: int = 224  # input of the image tower in pixels
    crop_scale: tuple[float, float] = (0.5, 1.0)  # area range of the random resized crop
    normalize: Literal["imagenet", "clip"] = "imagenet"  # channel mean and deviation
    train_fraction: float = 1.0  # share of the pool's training drawings, drawn by the seed
    cache_size: int = 36  # side of cached pool images in pixels, at most twice image_size
    max_corrupt: float = 0.05  # tolerated fraction of unreadable samples

    def __post_init__(self) -> None:
        super().__post_init__()
        self.texts = [ALIASES.get(name, name) for name in self.texts]
        if self.texts[:1] != [ORIGINAL] or len(set(self.texts)) != len(self.texts):
            raise ValueError(f"data.texts must begin with '{ORIGINAL}' and name each source once")
        available = len(self.texts) - 1
        limit = available if self.augmentation != "back_translation" else 1000
        if self.num_rewrites is not None and not 0 <= self.num_rewrites <= limit:
            raise ValueError(f"data.num_rewrites must lie between 0 and {available}, the rewrites")
        if not 0 <= self.augment_prob <= 1 or not 0 < self.augment_strength < 1:
            raise ValueError("data.augment_prob lies in [0, 1], data.augment_strength in (0, 1)")

    @property
    def rewrite_sources(self) -> list[str]:
        """Sources of the rewrites in use, in order."""
        if self.augmentation == "back_translation":
            return [f"back_translation_{i + 1}" for i in range(self.num_rewrites or 1)]
        count = len(self.texts) - 1 if self.num_rewrites is None else self.num_rewrites
        return self.texts[1 : 1 + count]


@dataclass
class ModelConfig:
    """Two towers and the logit scale."""

    vision: str | None = None  # own image tower: qknorm_vit_s16 | qknorm_vit_b16 | qknorm_vit_l16
    text: dict[str, Any] = field(default_factory=dict)  # sizes of the text tower; empty: CLIP's
    embed_dim: int = 512  # joint space, with vision
    open_clip: Any = None  # instead of vision: name or config of an open_clip model
    official_init: bool = False  # PyTorch's default init in QK-norm blocks, as in the release
    pretrained: str = "random"  # see common.encoders.resolve_pretrained
    logit_scale_init: float = 1 / 0.07  # first multiplier
    max_logit_scale: float = 100.0  # clamp after every step; the lower bound is 1
    activation_checkpointing: bool = False  # recompute blocks in the backward pass


@dataclass
class MethodConfig:
    """The objective."""

    num_texts: int = 1  # texts of an image per step; 2 is LaCLIP-MT, 1 LaCLIP
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.num_texts < 1:
            raise ValueError("method.num_texts must be >= 1")


@dataclass
class EvalConfig:
    """Evaluation protocol."""

    datasets: list[str] = field(default_factory=list)  # imagenet, food101, ...; see evaluate.py
    root: str | None = None  # folder of these sets; None: data.root
    templates: Literal["simple", "openai"] = "simple"  # the 7 sentences, or CLIP's own per set
    protocols: list[str] = field(default_factory=lambda: ["zeroshot"])  # few_shot, linear_probe
    validate: str | None = None  # set of trainer.val_every_n_steps; chooses the checkpoint
    batch_size: int = 256  # images or texts per forward pass
    split: Literal["test", "dev"] = "test"  # of the pool; tune on dev


@dataclass
class RewriteConfig:
    """`make run TASK=rewrite`: a language model writes one rewrite per line."""

    input: str | None = None  # text file, one caption a line, or the CSV of the pairs
    output: str | None = None  # finished chunks are kept in <output>.parts
    model: str = "bundled:stories260k"  # bundled:<name>, local folder or Hugging Face id
    source_type: Literal["chatgpt", "bard", "mscoco", "coco", "human"] = "chatgpt"
    batch_size: int = 100  # prompts per forward pass
    temperature: float = 0.9
    top_p: float = 0.95
    max_new_tokens: int = 77
    prompt_budget: int = 400  # tokens; the official script's default is 512
    seed: int = 1  # a line's demonstrations and tokens depend on (seed, line) alone
    device: str = "auto"  # auto: a GPU if there is one


@dataclass
class Config(ExperimentConfig):
    """LaCLIP experiment."""

    data: LaclipData = field(default_factory=LaclipData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)  # in place of rewrite.model
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of rewrite

    def __post_init__(self) -> None:
        if self.data.source == "csv" and self.data.captions is None:
            raise ValueError("data.source=csv needs data.captions, the CSV file of the pairs")
        if self.data.source == "webdataset" and self.data.shards is None:
            raise ValueError("data.source=webdataset needs data.shards")
        if (self.model.vision is None) == (self.model.open_clip is None):
            raise ValueError("set exactly one of model.vision and model.open_clip")
        available = 1 + len(self.data.rewrite_sources)
        if self.method.num_texts > available:
            raise ValueError(
                f"method.num_texts={self.method.num_texts}, but an image has {available} texts"
            )
