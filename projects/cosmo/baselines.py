"""Baselines of the likelihood of names: chance, shut gates, the dual encoder's own cosine."""

import torch
from torch.nn import functional as F

from common.data.samplers import sample_rng
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.cosmo.config import Config
from projects.cosmo.evaluate import (
    caption_scores,
    judged,
    likelihood_metrics,
    reciprocal_ranks,
)
from projects.cosmo.sources import Pictures
from projects.cosmo.stages import build_module, encode
from projects.cosmo.visual_language.patch_tokens import PatchTower

RANDOM_STREAM = 82


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The mean over all orders of the candidates; a training name at random as a caption."""
    held_out, names = judged(cfg), [texts[0] for texts in Pictures(cfg, "train").texts]
    ranks = reciprocal_ranks(torch.zeros(held_out.candidates.shape))
    workspace.items("mrr", ranks)
    rng = sample_rng(cfg.seed, 0, 0, RANDOM_STREAM)
    count = min(cfg.eval.written, len(held_out.names))
    drawn = [names[int(i)] for i in rng.integers(len(names), size=count)]
    step = len(held_out.names) // max(1, count)
    ranked = {"mrr": sum(ranks) / len(ranks), "recall_at_1": 1 / held_out.candidates.shape[1]}
    return ranked | caption_scores(held_out.names[::step][:count], drawn)


def gates_shut(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The network before training: the frozen language model, for which all pictures are equal."""
    tower, held_out = PatchTower(cfg.model.vision), judged(cfg)
    module = as_training_begins(lambda: build_module(cfg, tower), cfg.seed)
    with torch.no_grad():
        patches = encode(tower, cfg, held_out.pictures)[:, None, None]
        return likelihood_metrics(cfg, module, held_out, patches, workspace)


def dual_encoder(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The bundled dual encoder's cosine of name and picture, on the same lists.

    Ties count as in `likelihood_metrics`.
    """
    clip, held_out = FrozenClip(cfg.model.vision), judged(cfg)
    images = F.normalize(clip.encode_images(held_out.pictures), dim=1)
    texts = F.normalize(clip.encode_texts(held_out.names), dim=1)
    ranks = reciprocal_ranks((texts @ images.T).gather(1, held_out.candidates))
    workspace.items("mrr", ranks)
    hits = [float(r == 1.0) for r in ranks]
    return {"mrr": sum(ranks) / len(ranks), "recall_at_1": sum(hits) / len(hits)}
