"""Evaluation of two towers: held-out drawings of the pool, synthetic pairs, labelled image sets."""

from collections.abc import Callable

from torch import Tensor

from common.data.lookup import data_root
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.image_text.image_sets import ImageSetProtocol
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.families.image_text.data import eval_transform, synthetic_set
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.drawings_evaluation import evaluate_pool
from common.families.image_text.embedding import encode_images
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig


def evaluate_image_text(
    cfg: ImageTextConfig,
    module: ImageTextModule,
    workspace: Workspace,
    build: Callable[[], ImageTextModule],
) -> dict[str, float]:
    """All metrics that the config asks for.

    Args:
        cfg: the experiment's config.
        module: trained.
        workspace: gets galleries and item values.
        build: makes the module before training, for the metrics ``untrained_*``, see `untrained`.
    """
    metrics = {"logit_scale": float(module.logit_scale())}
    with modes.evaluated(module, cfg.trainer.accelerator):
        if cfg.data.source == "pool":
            metrics |= evaluate_pool(cfg, module, workspace, build)
        elif cfg.data.source == "synthetic":
            metrics |= evaluate_synthetic(cfg, module)
        if cfg.eval.datasets:
            metrics |= protocol(cfg, module, workspace)(cfg.eval.datasets)
    return metrics


def protocol(
    cfg: ImageTextConfig, module: ImageTextModule, workspace: Workspace
) -> ImageSetProtocol:
    """ImageNet and the fifteen downstream sets with this model."""
    device = module.logit_scale.log_scale.device

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(device)
        return module.encoder.encode_image(images), module.encoder.image_features(images)

    templates = OPENAI_TEMPLATES if cfg.eval.templates == "openai" else LACLIP_TEMPLATES
    return ImageSetProtocol(
        embed,
        module.encode_texts,
        eval_transform(cfg.data),
        data_root(cfg.eval.root or cfg.data.root),
        protocols=cfg.eval.protocols,
        templates={"imagenet": templates},
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        seed=cfg.seed,
        progress=workspace.progress,
    )


def evaluate_synthetic(cfg: ImageTextConfig, module: ImageTextModule) -> dict[str, float]:
    """Zero-shot accuracy on the synthetic images, in templates that were never trained on."""
    pairs = synthetic_set(cfg.data)
    images = encode_images(cfg, module, pairs.images)
    weights = class_embeddings(module.encode_texts, pairs.class_names, UNSEEN_TEMPLATES).cpu()
    scores = zeroshot_accuracy(images, pairs.labels, weights, ks=(1,))
    return {f"zeroshot_{name}": value for name, value in scores.items()}
