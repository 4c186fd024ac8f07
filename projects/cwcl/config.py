"""What can be set in a CWCL experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.speech.options import SpokenData
from common.evaluation.own_data import Judge
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers
from common.ranges import Count, Counts, Positive, Rate

OTHER_PAIR = {  # what belongs to the other pair of modalities
    "image_text": ("intents", "keywords", "intent_texts"),
    "speech_text": ("datasets", "pairs", "validate"),
}


@dataclass
class LockedTowers(TwoTowers):
    """A given image tower, which stays as it is, and a text tower that learns its space (LiT)."""

    # vision: cifar_resnet<depth>, cifar_resnet<depth>/early (its first two stages), convnet, timm/<model> or a torchvision model
    locked: bool = True  # False trains both towers (CLIP)
    # weights of the image tower alone; a file's want the images of data.normalize
    vision_pretrained: str = "random"
    centred: bool = False  # subtract the mean feature of the training images, with vision
    projected: bool = False  # a trainable map to embed_dim on the image side too, with vision
    text_tower: Literal["clip", "bag"] = "clip"  # with vision; bag: mean of word vectors
    cache: bool = True  # compute the tower's features once; needs images that are not augmented
    cache_dir: str | None = None  # folder that keeps them between runs
    augment: bool = False  # random resized crops for the image tower

    def check_towers(self) -> None:
        """Refuse what cannot be locked, cached or centred.

        Raises:
            ValueError: see above.
        """
        super().check_towers()
        if self.open_clip is not None and (self.centred or self.projected):
            raise ValueError("model.centred and model.projected need model.vision")
        if self.vision is not None and self.pretrained != "random":
            raise ValueError(
                "model.pretrained holds both towers of model.open_clip: with model.vision set "
                "model.vision_pretrained"
            )
        if self.locked and self.vision_pretrained == "random" and self.pretrained == "random":
            raise ValueError(
                "model.locked=true keeps the image tower as it is: name its weights in "
                "model.vision_pretrained (or model.pretrained with model.open_clip)"
            )
        self.check_frozen()

    def check_frozen(self) -> None:
        """Refuse a cache or a mean of what is trained or augmented.

        Raises:
            ValueError: see above.
        """
        if not self.locked and (self.cache or self.centred):
            raise ValueError("model.cache and model.centred need model.locked=true: set them false")
        if self.cache and self.augment:
            raise ValueError("model.cache=true needs model.augment=false: one feature an image")


@dataclass
class MethodConfig:
    """The objective."""

    # binary: CLIP or LiT; classes: equal class (cifar10, synthetic) or equal text (speech)
    weight_mode: Literal["cosine", "bidirectional", "binary", "classes", "smoothing"] = "cosine"
    # embedding: of the tower, centred if the model is; raw: what the tower says, never centred
    weight_features: Literal["embedding", "raw"] = "embedding"
    reduction_factor: Positive = 1.0  # of the sum of both directions
    smoothing: Rate = 0.0  # share of the target spread evenly, with weight_mode=smoothing
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class SpeechPairs(SpokenData):
    """Speech with transcripts; `root`, `batch_size` and `num_workers` are those of `data`."""

    # Common Voice's .tsv or JSONL {audio, text} in place of `source`, below data.root
    manifest: str | None = None
    sample_rate: Count = 16000  # of a manifest, in Hz


@dataclass
class SpeechTowers:
    """A pretrained text encoder, which stays as it is, and a speech tower that learns its space."""

    text: str = "bundled:text-encoder"  # any encoder, see common.encoders.pretrained
    text_pooling: Literal["avg", "cls"] = "avg"
    encoder: Literal["whisper", "wav2vec2", "conv"] = "whisper"
    pretrained: str = "random"  # of whisper and wav2vec2
    # of the speech tower, if it is random; null leaves out one of the config that is overridden
    sizes: dict[str, Any] = field(default_factory=dict)


@dataclass
class CwclEval(ImageTextEval):
    """Zero-shot classification, retrieval and structure."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        **ImageTextEval.judges,
        Layout.RECORDINGS: Judge(),
    }
    sweep: Counts = field(default_factory=lambda: [1, 3, 7])  # numbers of templates
    pairs: str | None = None  # held-out CSV path,caption: retrieval and structure
    structure_pairs: Count = 1000  # held-out pairs that similarity matrices are compared on
    # spoken intents alongside those of speech.source: slurp, fsc, or a JSONL {audio, text, intent}
    intents: list[str] = field(default_factory=list)  # below data.root
    keywords: str | None = None  # folder of Speech Commands V2, below data.root
    intent_prompts: list[str] = field(default_factory=lambda: ["{}"])  # of class names
    intent_texts: str | None = None  # instead: JSON {intent: [utterances]}, embeddings averaged


@dataclass
class ClassifyConfig:
    """`make run TASK=classify`: nearest texts for pictures or recordings of your own."""

    run: str | None = None  # exported folder
    inputs: list[str] = field(default_factory=list)  # pictures or recordings
    texts: list[str] = field(default_factory=list)  # classes or sentences
    output: str | None = None  # JSONL; None prints


@dataclass
class Config(ExperimentConfig):
    """CWCL experiment on one of two pairs of modalities."""

    pair: Literal["image_text", "speech_text"] = "image_text"
    data: ImageTextData = field(default_factory=ImageTextData)
    model: LockedTowers = field(default_factory=LockedTowers)
    speech: SpeechPairs = field(default_factory=SpeechPairs)
    speech_model: SpeechTowers = field(default_factory=SpeechTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: CwclEval = field(default_factory=CwclEval)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        mode = self.method.weight_mode
        if not self.model.locked and mode in ("cosine", "bidirectional"):
            raise ValueError(
                f"method.weight_mode={mode} takes its weights from a frozen tower: "
                "set model.locked=true"
            )
        if (self.method.smoothing > 0) != (mode == "smoothing"):
            raise ValueError("method.smoothing > 0 goes with method.weight_mode=smoothing, alone")
        for name in ("root", "batch_size", "num_workers"):
            if getattr(self.speech, name) != getattr(SpeechPairs(), name):
                raise ValueError(f"speech.{name} has no effect: speech takes data.{name}")
        for name in OTHER_PAIR[self.pair]:
            if getattr(self.eval, name):
                raise ValueError(f"eval.{name} has no meaning with pair={self.pair}")
        if self.pair == "image_text":
            self.data.check_source()
            self.model.check_towers()
            if mode == "classes" and self.data.source not in ("cifar10", "synthetic"):
                raise ValueError("method.weight_mode=classes needs labels: data.source=cifar10")
        else:
            self.model.check_frozen()
            if self.model.cache_dir is not None:
                raise ValueError("model.cache_dir keeps features of images: pair=image_text")
            if self.speech_model.encoder == "conv" and self.speech_model.pretrained != "random":
                raise ValueError("speech_model.encoder=conv has no pretrained weights")
        part: DataConfig = self.speech
        part.root, part.num_workers = self.data.root, self.data.num_workers
        part.batch_size = self.data.batch_size
