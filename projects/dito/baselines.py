"""Training-free baselines: chance, the commonest name, pixels, the untrained network."""

import torch

from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.dito.config import Config
from projects.dito.evaluate import by_scene, predicted
from projects.dito.network import build_network
from projects.dito.scenes import Scenes, scenes_of


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """One of all names at random."""
    value = 1 / len(scenes_of(cfg, cfg.eval.split).names)
    return {f"region_top1{part}": value for part in ("", "_border", "_inside")}


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The name that training scenes hold most often, for every box."""
    train, test = scenes_of(cfg, "train"), scenes_of(cfg, cfg.eval.split)
    best = int(train.labels.flatten().bincount().argmax())
    return _accuracy(cfg, test, test.labels == best)


def template_matching(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The nearest of all pictures, by pixels at 16 x 16; it alone has every drawing."""
    from torchvision.transforms.v2 import functional as TF

    from projects.dito.scenes import emoji_pictures

    scenes = scenes_of(cfg, cfg.eval.split)
    pictures, names = emoji_pictures(cfg.data.names, cfg.data.root)
    place = {n: i for i, n in enumerate(scenes.names)}
    rows = [_flat(TF.pil_to_tensor(p.crop(p.getbbox()).convert("RGB"))) for p in pictures]
    templates = torch.stack(rows)
    labels = torch.tensor([place[n] for n in names])
    right = []
    for image, boxes, truth in zip(scenes.images, scenes.boxes.long(), scenes.labels, strict=True):
        crops = torch.stack([_flat(image[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes.tolist()])
        right.append(labels[(crops @ templates.T).argmax(1)] == truth)
    return _accuracy(cfg, scenes, torch.stack(right))


def _flat(pixels: torch.Tensor) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as TF

    small = TF.resize(pixels.float(), [16, 16], antialias=True).flatten()
    centred: torch.Tensor = small - small.mean()
    unit: torch.Tensor = centred / centred.norm().clamp(min=1e-6)
    return unit


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The image-level model before training, on RoIAlign of its map."""
    network = as_training_begins(lambda: build_network(cfg.model, cfg.detect.rpn_convs), cfg.seed)
    scenes = scenes_of(cfg, cfg.eval.split)
    with torch.no_grad():
        best, _ = predicted(cfg, network, scenes, "map")
    return _accuracy(cfg, scenes, best == scenes.labels)


def _accuracy(cfg: Config, scenes: Scenes, right: torch.Tensor) -> dict[str, float]:
    return {name: float(hits.mean()) for name, hits in by_scene(cfg, scenes, right.float()).items()}
