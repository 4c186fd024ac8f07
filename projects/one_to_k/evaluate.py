"""What the paper measures, with the untrained network beside it."""

from torch import nn

from common.data.image.sources import EvalTransform
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import frozen_features, knn_correct
from projects.one_to_k.config import Config
from projects.one_to_k.data import NUM_CLASSES, images
from projects.one_to_k.module import OneToK


def evaluate(cfg: Config, module: OneToK, workspace: Workspace) -> dict[str, float]:
    """``knn_top1`` with its chance level, and ``untrained_knn_top1``."""
    raw = untrained(lambda: OneToK(cfg), cfg.seed, module)
    with evaluated(module, cfg.trainer.accelerator):
        hits = held_out_hits(cfg, module.network.encoder)
    before = held_out_hits(cfg, raw.network.encoder)
    workspace.items("knn_top1", hits)  # `make compare` pairs the arms image by image
    return {
        "knn_top1": sum(hits) / len(hits),
        "knn_top1_chance": 1 / NUM_CLASSES,
        "untrained_knn_top1": sum(before) / len(before),
    }


def held_out_hits(cfg: Config, encoder: nn.Module) -> list[float]:
    """Whether the nearest training images vote for the class of each held-out image."""
    (pixels, labels), count = images(cfg), cfg.data.num_train
    features = frozen_features(encoder, pixels, EvalTransform(cfg.data.image_size).batch)
    return knn_correct(
        features[:count],
        labels[:count],
        features[count:],
        labels[count:],
        k=cfg.eval.neighbours,
    )
