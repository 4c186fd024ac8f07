"""Retrieval among held-out scenes, or zero-shot classification, for all contestants alike."""

from collections.abc import Callable

from arena.image_text.config import Config
from arena.image_text.module import Contest
from common.data.image_text.scenes import Scenes
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.families.image_text.embedding import encode_images, encode_texts
from common.families.image_text.evaluation import evaluate_image_text
from common.families.image_text.scenes import held_out_scenes


def evaluate(
    cfg: Config, module: Contest, workspace: Workspace, build: Callable[[], Contest]
) -> dict[str, float]:
    """Scenes have `scene_recall`, other sources what their family's evaluation finds."""
    if cfg.data.source != "scenes":
        return evaluate_image_text(cfg, module, workspace, build)
    with evaluated(module, cfg.trainer.accelerator):
        return scene_recall(cfg, module, workspace)


def scene_recall(cfg: Config, module: Contest, workspace: Workspace) -> dict[str, float]:
    """Share of held-out texts whose scene is the most similar one; items pair the contestants.

    ``recall_at_1`` asks in wordings that no caption has, ``caption_recall_at_1`` in those of the
    captions, ``clipart_recall_at_1`` for drawings that training never shows.
    """
    held, clipart = held_out_scenes(cfg), held_out_scenes(cfg, "clipart")
    captions = [row[0] for row in held.texts]
    metrics = {}
    for name, scenes, texts in (
        ("recall_at_1", held, held.queries),
        ("caption_recall_at_1", held, captions),
        ("clipart_recall_at_1", clipart, clipart.queries),
    ):
        items = _first(cfg, module, scenes, texts)
        workspace.items(name, items)
        metrics[name] = sum(items) / len(items)
        metrics[f"{name}_chance"] = 1 / len(items)
    return metrics


def _first(cfg: Config, module: Contest, scenes: Scenes, texts: list[str]) -> list[float]:
    """Whether each text finds its own scene first."""
    images = encode_images(cfg, module, scenes.images)
    rows = relevant_ranks(encode_texts(cfg, module, texts), images, range(len(texts)))
    return [float(rank == 1) for rank in rows.tolist()]
