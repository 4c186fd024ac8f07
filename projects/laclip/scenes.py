"""Evaluation and baselines on held-out scenes of two drawings, by queries in unseen wordings."""

import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image_text.scenes import NOUNS, OPPOSITES, Scenes, query_of, single_drawings
from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.image_text.zeroshot import class_embeddings
from common.evaluation.retrieval.cross_modal import relevant_ranks
from common.families.image_text.drawings import UNSEEN_TEMPLATES
from common.families.image_text.drawings_evaluation import loss_gap, training_rows
from common.families.image_text.evaluation import SHOWN, show_scenes
from common.families.image_text.scenes import held_out_scenes, training_scenes
from projects.laclip.config import Config
from projects.laclip.data import drawn_texts, training_pairs
from projects.laclip.encoders import Encoders, encoders, prompt_agreement
from projects.laclip.module import LaCLIP

SIDE = 12  # of the scenes that raw pixels are compared at


def evaluate_scenes(
    cfg: Config, module: LaCLIP, workspace: Workspace, build: Callable[[], LaCLIP]
) -> dict[str, float]:
    """Metrics on held-out scenes, of the untrained model too, and a gallery of `SHOWN` queries."""
    metrics = {"logit_scale": float(module.logit_scale())}
    with modes.evaluated(module, cfg.trainer.accelerator):
        raw = scene_metrics(cfg, encoders(cfg, modes.untrained(build, cfg.seed, module)))
        metrics |= {f"untrained_{name}": value for name, value in _without_chance(raw).items()}
        model = encoders(cfg, module)
        metrics |= scene_metrics(cfg, model, workspace)
        metrics |= caption_losses(cfg, module, model)
        held = held_out_scenes(cfg)
        show_scenes(cfg, model.texts(held.queries) @ model.images(held.images).T, workspace)
    return metrics | drawn_texts(training_pairs(cfg))


def scene_metrics(
    cfg: Config, model: Encoders, workspace: Workspace | None = None
) -> dict[str, float]:
    """Retrieval, zero-shot nouns and relations; a workspace gets the values of each item.

    ``recall_at_1`` and ``_5`` rank held-out scenes by queries in unseen wordings, ``caption_*`` by
    captions in the wording of training, ``clipart_*`` are queries among scenes of drawings that
    training never shows. ``zeroshot_top1`` names single drawings, ``relation_accuracy`` is the
    share of scenes that are closer to their query than to the one with the opposite relation.
    ``gallery_right`` counts right answers among the first `SHOWN` queries.
    """
    held = held_out_scenes(cfg)
    images = model.images(held.images)
    queries = model.texts(held.queries)
    right = torch.arange(len(held))
    ranks = relevant_ranks(queries, images, right)
    by_caption = relevant_ranks(model.texts([row[0] for row in held.texts]), images, right)
    clipart = held_out_scenes(cfg, "clipart")
    clipart_ranks = relevant_ranks(
        model.texts(clipart.queries), model.images(clipart.images), torch.arange(len(clipart))
    )
    opposite = [
        query_of(scene._replace(relation=OPPOSITES[scene.relation]), i)
        for i, scene in enumerate(held.scenes)
    ]
    related = (queries * images).sum(1) > (model.texts(opposite) * images).sum(1)
    pictures, labels = single_drawings(cfg.data.image_size, cfg.data.root)
    weights = class_embeddings(lambda texts: model.texts(texts), NOUNS, UNSEEN_TEMPLATES)
    named = relevant_ranks(model.images(pictures), weights, labels) == 1
    values = {
        "recall_at_1": ranks == 1,
        "recall_at_5": ranks <= 5,
        "caption_recall_at_1": by_caption == 1,
        "clipart_recall_at_1": clipart_ranks == 1,
        "zeroshot_top1": named,
        "relation_accuracy": related,
    }
    chances = {
        "recall_at_1": 1 / len(held),
        "recall_at_5": 5 / len(held),
        "caption_recall_at_1": 1 / len(held),
        "clipart_recall_at_1": 1 / len(clipart),
        "zeroshot_top1": 1 / len(NOUNS),
        "relation_accuracy": 0.5,
        "gallery_right": SHOWN / len(held),
    }
    metrics = {name: float(items.double().mean()) for name, items in values.items()}
    metrics["gallery_right"] = float((ranks[:SHOWN] == 1).sum())
    metrics["prompt_agreement"] = prompt_agreement(model, NOUNS)
    if workspace is not None:
        for name, items in values.items():
            workspace.items(name, items.double().tolist())
    return metrics | {f"{name}_chance": value for name, value in chances.items()}


def caption_losses(cfg: Config, module: LaCLIP, model: Encoders) -> dict[str, float]:
    """`loss_gap` between captions of training scenes and of held-out ones."""
    held, trained = held_out_scenes(cfg), training_scenes(cfg)
    rows = training_rows(len(trained), len(held))
    training = model.images(trained.images[rows]), model.texts([trained.texts[i][0] for i in rows])
    held_out = model.images(held.images), model.texts([row[0] for row in held.texts])
    return loss_gap(module, training if rows else None, held_out)


# -- baselines -----------------------------------------------------------------------------------


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A word is the mean of the training scenes whose caption has it, a text the mean of its words.

    Scenes are 12 x 12 pixels less the mean scene; a text without known words is none of them.
    """
    pixels = _Pixels(training_scenes(cfg))
    of_word = {word: pixels.rows[rows].mean(0) for word, rows in pixels.with_word.items()}

    def embed(text: str) -> Tensor:
        vectors = [of_word[word] for word in _words(text) if word in of_word]
        return torch.stack(vectors).mean(0) if vectors else pixels.unknown

    return _without_chance(scene_metrics(cfg, pixels.encoders(embed), workspace))


def nearest_captions(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A text is the mean of the training scenes whose captions share the most of its words.

    Shared words count by their rarity (inverse document frequency); pixels as in `raw_pixels`.
    """
    trained = training_scenes(cfg)
    pixels = _Pixels(trained)
    vocabulary = {word: k for k, word in enumerate(pixels.with_word)}
    weight = torch.tensor([len(trained) / len(rows) for rows in pixels.with_word.values()]).log()
    has = torch.zeros(len(trained), len(vocabulary))
    for word, rows in pixels.with_word.items():
        has[rows, vocabulary[word]] = 1

    def embed(text: str) -> Tensor:
        known = [vocabulary[word] for word in set(_words(text)) if word in vocabulary]
        shared = (has[:, known] * weight[known]).sum(1)
        nearest = shared > shared.max() - 1e-6
        return pixels.rows[nearest].mean(0) if known else pixels.unknown

    return _without_chance(scene_metrics(cfg, pixels.encoders(embed), workspace))


class _Pixels:
    """Training scenes as centred rows of pixels, and in which captions each word is."""

    def __init__(self, trained: Scenes) -> None:
        self.mean = _small(trained.images).mean(0)
        self.rows = F.normalize(_small(trained.images) - self.mean, dim=1)
        self.unknown = torch.full((self.rows.shape[1],), 1e-3)  # no direction of its own
        self.with_word: dict[str, list[int]] = defaultdict(list)
        for i, (caption, *_) in enumerate(trained.texts):
            for word in set(_words(caption)):
                self.with_word[word].append(i)

    def encoders(self, embed: Callable[[str], Tensor]) -> Encoders:
        return Encoders(
            lambda images: F.normalize(_small(images) - self.mean, dim=1),
            lambda texts: F.normalize(torch.stack([embed(text) for text in texts]), dim=1),
        )


def _words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def _small(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 * 12 * 12) float32 in [0, 1]."""
    return F.interpolate(images.float() / 255, (SIDE, SIDE), mode="area").flatten(1)


def _without_chance(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_chance")}
