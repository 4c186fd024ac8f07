"""Evaluation of two towers: held-out drawings or scenes, synthetic pairs, labelled image sets."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor

from common.data.image.benchmarks import IMAGE_SETS, judged_as_imagenet
from common.data.lookup import data_root
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.image_text.clip_templates import clip_templates
from common.evaluation.image_text.image_sets import ImageSetProtocol
from common.evaluation.image_text.zeroshot import (
    LACLIP_TEMPLATES,
    OPENAI_TEMPLATES,
    class_embeddings,
    zeroshot_accuracy,
)
from common.evaluation.retrieval.cross_modal import cross_modal_recall
from common.families.image_text.data import eval_transform, synthetic_set
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.drawings_evaluation import evaluate_pool
from common.families.image_text.embedding import encode_images, encode_texts
from common.families.image_text.module import ImageTextModule
from common.families.image_text.protocol import ImageTextConfig
from common.families.image_text.scenes import held_out_scenes


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
        elif cfg.data.source == "scenes":
            metrics |= evaluate_scenes(cfg, module, workspace)
        elif cfg.data.source == "synthetic":
            metrics |= evaluate_synthetic(cfg, module)
        if cfg.eval.datasets:
            metrics |= protocol(cfg, module, workspace)(cfg.eval.datasets)
    return metrics


def protocol(
    cfg: ImageTextConfig, module: ImageTextModule, workspace: Workspace
) -> ImageSetProtocol:
    """Labelled image sets with this model, in CLIP's sentences of each set.

    Those judged as ImageNet have the sentences of `eval.templates`.
    """
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
        templates={
            name: templates if judged_as_imagenet(name) else clip_templates(name)
            for name in IMAGE_SETS
        },
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


SHOWN = 30  # queries of the gallery
SHOWN_SIZE = 96  # of its scenes in pixels


def evaluate_scenes(
    cfg: ImageTextConfig, module: ImageTextModule, workspace: Workspace
) -> dict[str, float]:
    """Recall of held-out scenes by queries in unseen wordings, and a gallery."""
    held = held_out_scenes(cfg)
    images = encode_images(cfg, module, held.images)
    queries = encode_texts(cfg, module, held.queries)
    scores = cross_modal_recall(queries, images, range(len(held)))
    show_scenes(cfg, queries @ images.T, workspace)
    return {name: value for name, value in scores.items() if name.startswith("recall")}


def show_scenes(cfg: ImageTextConfig, scores: Tensor, workspace: Workspace) -> None:
    """Gallery of the first `SHOWN` queries with the five nearest of all held-out scenes.

    Args:
        cfg: the experiment's config.
        scores: (N, N) similarity of each query and each scene.
        workspace: gets the gallery.
    """
    held = held_out_scenes(cfg, size=SHOWN_SIZE)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in held.images]
    queries = held.queries[:SHOWN]
    rows = retrieval_gallery(scores, queries, pictures, range(SHOWN), num_queries=SHOWN)
    workspace.gallery("queries to scenes", rows)
