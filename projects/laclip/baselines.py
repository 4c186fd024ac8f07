"""What the arms have to beat without training: guessing, raw pixels, the towers at their start."""

from collections import defaultdict

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.sources import CachedImages
from common.data.image_text.drawings import words
from common.encoders import modes
from common.engine.workspace import Workspace
from common.families.image_text.data import eval_transform
from common.families.image_text.drawings import pool_pairs
from common.families.image_text.drawings_evaluation import chance_of, require_pool
from projects.laclip import scenes
from projects.laclip.config import Config
from projects.laclip.encoders import Encoders, encoders
from projects.laclip.evaluate import held_out, nouns_of, pool_metrics
from projects.laclip.module import LaCLIP

SIDE = 12  # of the pictures that raw pixels are compared at


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The model before training."""
    if cfg.data.source != "scenes":
        require_pool(cfg)
    with torch.no_grad():
        model = encoders(cfg, modes.untrained(lambda: LaCLIP(cfg), cfg.seed))
        if cfg.data.source == "scenes":
            return scenes.scene_metrics(cfg, model, workspace)
        return pool_metrics(model, held_out(cfg), workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Expectation of a random class and of a random ranking."""
    return chance_of(untrained(cfg, Workspace(workspace.folder("untrained"))))


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The class with the most held-out drawings, for every drawing."""
    require_pool(cfg)
    held = held_out(cfg)
    top1 = int(torch.bincount(held.labels).max()) / len(held.labels)
    per_class = 1 / len(held.classes)
    return {
        f"{kind}_{name}": value
        for kind in ("zeroshot", "bare")
        for name, value in (("top1", top1), ("mean_per_class", per_class))
    }


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A word is the mean image of the training images that are named by it, a text its words.

    Images are 12 x 12 pixels less the mean image; a text without known words is none of them.
    """
    if cfg.data.source == "scenes":
        return scenes.raw_pixels(cfg, workspace)
    require_pool(cfg)
    source, captions = pool_pairs(cfg, eval_transform(cfg.data))
    assert isinstance(source, CachedImages)
    mean = _small(source.images).mean(0)
    pictures = F.normalize(_small(source.images) - mean, dim=1)
    named = defaultdict(list)
    for i in range(len(captions)):
        for noun in nouns_of(captions.texts(i)[0]):
            named[noun].append(i)
    of_word = {word: pictures[rows].mean(0) for word, rows in named.items()}
    unknown = torch.full((pictures.shape[1],), 1e-3)  # no direction of its own

    def embed(texts: list[str]) -> Tensor:
        rows = []
        for text in texts:
            vectors = [of_word[word] for word in words(text) if word in of_word]
            rows.append(torch.stack(vectors).mean(0) if vectors else unknown)
        return F.normalize(torch.stack(rows), dim=1)

    model = Encoders(
        lambda pixels: F.normalize(_small(pixels) - mean, dim=1), lambda texts: embed(list(texts))
    )
    metrics = pool_metrics(model, held_out(cfg), workspace)
    return {name: value for name, value in metrics.items() if "_chance" not in name}


def nearest_captions(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The scenes of the training captions that share most words with a text, by their pixels."""
    return scenes.nearest_captions(cfg, workspace)


def _small(pixels: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3 * 12 * 12) float32 in [0, 1]."""
    small = F.interpolate(pixels.float() / 255, (SIDE, SIDE), mode="area")
    return small.flatten(1)
