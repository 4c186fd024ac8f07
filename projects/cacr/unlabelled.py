"""Evaluation without labels: the spread of the features, and their neighbours."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.image.files import LabelledFiles
from common.data.image.parts import ImagePart
from common.data.samplers import sample_rng
from common.engine.workspace import Workspace
from common.evaluation.features.frozen import source_features
from common.evaluation.features.geometry import alignment, geometry_metrics, uniformity
from common.families.images.data import eval_transform
from projects.cacr.config import Config
from projects.cacr.data import pictures_below, view_transforms
from projects.cacr.module import CACR

LOOKED_AT = 1000  # pictures, evenly spaced
SHOWN, NEIGHBOURS = 6, 5  # queries of the gallery, pictures alongside each
VIEW_STREAM = 25


def evaluate_unlabelled(cfg: Config, module: CACR, workspace: Workspace) -> dict[str, float]:
    """Geometry of features and projections of training pictures.

    No measure of what they are good for.

    Args:
        cfg: a config with ``eval.judge=none``.
        module: in evaluation mode.
        workspace: gets a gallery of nearest pictures.

    Returns:
        ``features_*`` as `geometry_metrics`; ``alignment`` and ``projection_uniformity`` of two
        views.
    """
    whole = pictures_below(cfg.data)
    chosen = torch.linspace(0, len(whole.paths) - 1, min(len(whole.paths), LOOKED_AT)).long()
    some = LabelledFiles(whole.folder, [whole.paths[i] for i in chosen], whole.labels[chosen], [])
    pictures = ImagePart(some)
    features, rows = source_features(
        module.network.encoder,
        pictures.source(eval_transform(cfg.data)),
        batch_size=cfg.eval.batch_size,
        num_workers=cfg.data.num_workers,
        progress=workspace.progress,
    )
    metrics = {f"features_{name}": value for name, value in geometry_metrics(features).items()}
    one, two = two_views(cfg, module, pictures)
    metrics |= {"alignment": alignment(one, two), "projection_uniformity": uniformity(one)}
    workspace.gallery("nearest pictures", nearest(features, pictures, rows.tolist()))
    return metrics


def two_views(cfg: Config, module: CACR, pictures: ImagePart) -> tuple[Tensor, Tensor]:
    """Raw embeddings (N, D) each of two augmented views of the pictures that can be read."""
    source = pictures.source(view_transforms(cfg.data, 2))
    device, parts = next(module.parameters()).device, []
    for rows in torch.split(torch.arange(len(pictures.labels)), cfg.eval.batch_size):
        rngs = [sample_rng(0, 0, int(i), VIEW_STREAM) for i in rows]
        views, _ = source.load(rows.tolist(), rngs)  # (R, 2, 3, H, W)
        embedded = module.network(views.flatten(0, 1).to(device)).float().cpu()
        parts.append(embedded.view(len(views), 2, -1))
    one, two = torch.cat(parts).unbind(1)
    return one, two


def nearest(features: Tensor, pictures: ImagePart, rows: list[int]) -> list[dict[str, Any]]:
    """Evenly spaced pictures with those whose features have the largest cosine."""
    unit = F.normalize(features, dim=1)
    shown = []
    for query in torch.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).long().tolist():
        cosines = unit @ unit[query]
        cosines[query] = -torch.inf
        best = cosines.topk(min(NEIGHBOURS, len(rows) - 1))
        results = [
            {"item": pictures.picture(rows[i]), "score": score}
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        shown.append({"query": pictures.picture(rows[query]), "results": results})
    return shown
