"""Small dual encoder on bundled pictures with words, after CLIP (Radford et al., ICML 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.config import DataConfig, ExperimentConfig
from common.ranges import Count, Probability, Whole


@dataclass
class PictureData(DataConfig):
    """Drawings and photographs of a batch."""

    limit: int | None = None  # drawings, the first ones
    drawings: Count = 96
    photos: Whole = 32  # 0: no photographs at all
    photo_limit: int | None = 8000
    image_size: Count = 48
    name_share: Probability = 0.35  # a drawing comes with its name, else with a phrasing
    vocab_size: Count = 4096
    context_length: Count = 20


@dataclass
class ModelConfig:
    """Towers as an open_clip config."""

    open_clip: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config(ExperimentConfig):
    """One dual encoder."""

    data: PictureData = field(default_factory=PictureData)
    model: ModelConfig = field(default_factory=ModelConfig)


def build(cfg: Config) -> Any:
    """The experiment of a config."""
    import torch
    from torch import Tensor

    from common.data.image.simclr import SimCLRTransform
    from common.data.image.sources import IMAGENET_MEAN, IMAGENET_STD
    from common.data.module import ContrastiveData
    from common.data.text.tokenizers import BpeTokenizer
    from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
    from common.engine.experiment import Experiment, Plan, Stage
    from common.engine.module import ContrastiveModule
    from common.export.open_clip import load_open_clip, save_open_clip
    from common.families.image_text.photographs import photographs as bundled_photographs
    from common.losses.image_text import ClipLoss
    from common.losses.temperature import LogitScale
    from scripts.pretrain import drawings
    from scripts.pretrain.dual_figures import dual_metrics, encode_pictures

    data, size = cfg.data, cfg.data.image_size
    photos = bool(data.photos)

    def training_drawings() -> drawings.Captioned:
        found = drawings.training_drawings(data.root, size + size // 8)
        n = data.limit or len(found.names)
        return drawings.Captioned(found.images[:n], found.names[:n], found.phrasings[:n])

    def train_tokenizer(pictures: drawings.Captioned) -> BpeTokenizer:
        texts = drawings.vocabulary_texts(data.root, pictures)
        return BpeTokenizer.train(
            texts, vocab_size=data.vocab_size, context_length=data.context_length
        )

    class Clip(ContrastiveModule):
        """Two towers, symmetric InfoNCE; pairs of equal name or class are no negatives."""

        def __init__(self, encoder: OpenClipDualEncoder) -> None:
            super().__init__(cfg.optim)
            self.encoder, self.loss, self.logit_scale = encoder, ClipLoss(), LogitScale()

        def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            """Loss and accuracy of the images' nearest texts."""
            image, text = self.encoder(batch["images"], batch["tokens"])
            loss = self.loss(image, text, self.logit_scale(), batch["ids"]).loss
            with torch.no_grad():
                best = (
                    image.float() @ torch.nn.functional.normalize(text.float(), dim=1).T
                ).argmax(1)
                hits = (batch["ids"][best] == batch["ids"]).float().mean()
            return {"loss": loss, "accuracy": hits}

        def after_optimizer_step(self) -> None:
            """Keep the multiplier between 1 and 100."""
            self.logit_scale.clamp_()

    def new_encoder(tokenizer: BpeTokenizer) -> OpenClipDualEncoder:
        return OpenClipDualEncoder(cfg.model.open_clip, "random", tokenizer)

    def stages() -> Iterator[Stage]:
        pictures = training_drawings()
        tokenizer = train_tokenizer(pictures)
        images, labels = bundled_photographs(
            data.root, "train", data.photo_limit if photos else 10, pictures.images.shape[-1]
        )
        transform = SimCLRTransform(
            size, scale=(0.7, 1.0), jitter=(0.2, 0.2, 0.2, 0.05), jitter_prob=1.0, grey_prob=0.0
        )
        train = drawings.CaptionBatches(
            pictures,
            images,
            labels,
            transform,
            tokenizer,
            counts=(data.drawings, data.photos),
            name_share=data.name_share,
            seed=cfg.seed,
        )
        loader = ContrastiveData(train, batch_size=1, seed=cfg.seed, num_workers=data.num_workers)
        yield Stage("train", Clip(new_encoder(tokenizer)), loader)

    def evaluate(module: Clip, workspace: Any) -> dict[str, float]:
        found = dual_metrics(module.encoder, data.root, photographs=photos)
        torch.manual_seed(cfg.seed)
        raw = dual_metrics(new_encoder(module.encoder.tokenizer), data.root, photographs=photos)
        return found | {f"untrained_{name}": value for name, value in raw.items()}

    def export(module: Clip, folder: Path) -> None:
        save_open_clip(
            module.encoder,
            folder,
            log_scale=module.logit_scale.log_scale,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            interpolation="bilinear",
            dtype=torch.float16,
        )

    def load_export(folder: Path) -> Clip:
        encoder = load_open_clip(folder)
        module = Clip(encoder)
        module.logit_scale.log_scale.data.fill_(encoder.log_scale)
        return module

    def embed(module: Clip) -> dict[str, Tensor]:
        pixels = (torch.linspace(0, 9, 2 * 3 * size * size).sin().abs() * 255).to(torch.uint8)
        texts = module.encoder.tokenizer(["a red apple", "a photo of a cat."])
        return {
            "image": encode_pictures(module.encoder, pixels.reshape(2, 3, size, size)),
            "text": module.encoder.encode_text(texts).float(),
        }

    def plan() -> Plan:
        tokenizer = train_tokenizer(training_drawings())
        return Plan(lambda: Clip(new_encoder(tokenizer)), len(training_drawings().names))

    return Experiment(stages, evaluate, export, load_export, embed, plan)
