"""What retrieval has to beat without training: chance, pixels, colours, the untrained towers."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.data.image.labelled import resized
from common.encoders import modes
from common.engine.workspace import Workspace
from common.families.image_text.drawings_evaluation import chance_of, require_pool
from projects.mofi.config import Config
from projects.mofi.evaluate import evaluate_pool, held_out, pool_retrieval
from projects.mofi.module import MOFI

SIDE = 16  # pixels
BINS = 4  # of each channel


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The towers before training."""
    require_pool(cfg)
    with torch.no_grad():
        return evaluate_pool(cfg, modes.untrained(lambda: MOFI(cfg), cfg.seed), workspace)


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Centred pixels of 16 x 16."""
    return _of(cfg, workspace, pixel_features)


def colour_histogram(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Shares of 64 colours."""
    return _of(cfg, workspace, colour_features)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Expectation of a random order and of a random class."""
    pixels = raw_pixels(cfg, Workspace(workspace.folder("pixels")))
    return chance_of(pixels) | {"zeroshot_top1": 0.1}


def pixel_features(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 768)."""
    x = resized(images, SIDE).float().flatten(1)
    return x - x.mean(1, keepdim=True)


def colour_features(images: Tensor) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 64)."""
    place = torch.div(images.long() * BINS, 256, rounding_mode="floor")
    colour = (place * torch.tensor([BINS * BINS, BINS, 1])[:, None, None]).sum(1).flatten(1)
    return torch.stack([torch.bincount(row, minlength=BINS**3).float() for row in colour])


def _of(
    cfg: Config, workspace: Workspace, features: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    require_pool(cfg)
    judged = held_out(cfg)
    photos, drawings = features(judged.photos.images), features(judged.drawings)
    return pool_retrieval(cfg, judged, photos, drawings, workspace)
