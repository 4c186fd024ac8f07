"""Training-free baselines of RTD: image, text, their sum, pixels, a ceiling, chance."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from projects.rtd.composer import Composer
from projects.rtd.config import Config
from projects.rtd.evaluate import (
    Task,
    encode_task,
    ranks_of,
    recall_figures,
    save_items,
    task_metrics,
    task_of,
)
from projects.rtd.stages import composer_of

LAMBDAS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
PIXELS = 16  # side of the pictures that are compared as they are


def _measured(
    cfg: Config, workspace: Workspace, make: Callable[[Composer, Task, Tensor], Tensor]
) -> dict[str, float]:
    torch.manual_seed(cfg.seed)
    composer, task = composer_of(cfg), task_of(cfg)
    assert task is not None
    with evaluated(composer, cfg.trainer.accelerator):
        images = encode_task(cfg, composer, task)
        query = F.normalize(make(composer, task, images), dim=1)
    ranks = ranks_of(task, query, images, task.gallery)
    save_items(task, ranks, workspace)
    return recall_figures(task, ranks)


def _references(task: Task, images: Tensor) -> Tensor:
    return F.normalize(images[torch.tensor([q.reference for q in task.queries])], dim=1)


def _texts(composer: Composer, texts: list[str]) -> Tensor:
    parts = [
        composer.anchor(composer.tokens(texts[i : i + 256])) for i in range(0, len(texts), 256)
    ]
    return F.normalize(torch.cat(parts).float().cpu(), dim=1)


def _conditions(composer: Composer, task: Task) -> Tensor:
    return _texts(composer, [q.condition for q in task.queries])


def image_only(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The reference's nearest pictures, whatever the sentence says."""
    return _measured(cfg, workspace, lambda composer, task, images: _references(task, images))


def text_only(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pictures near the sentence, whatever the reference shows."""
    return _measured(cfg, workspace, lambda composer, task, images: _conditions(composer, task))


def image_plus_text(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Unit image plus lambda times unit sentence.

    Lambda is the best one on the training families.
    """
    best = tuned_lambda(cfg)
    metrics = _measured(
        cfg,
        workspace,
        lambda composer, task, images: (
            _references(task, images) + best * _conditions(composer, task)
        ),
    )
    return {**metrics, "lambda": best}


def tuned_lambda(cfg: Config) -> float:
    """The lambda of `LAMBDAS` with the best R@1 on training families."""
    composer, task = composer_of(cfg), task_of(cfg, "train")
    assert task is not None
    with evaluated(composer, cfg.trainer.accelerator):
        images = encode_task(cfg, composer, task)
        pictures, texts = _references(task, images), _conditions(composer, task)
        scores = {
            value: recall_figures(
                task,
                ranks_of(task, F.normalize(pictures + value * texts, dim=1), images, task.gallery),
                (1,),
            )["recall_at_1"]
            for value in LAMBDAS
        }
    return max(scores, key=lambda value: scores[value])


def caption_oracle(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The answer's own name as query: what a perfect composition of texts could reach."""
    return _measured(
        cfg,
        workspace,
        lambda composer, task, images: _texts(
            composer, [task.names[q.target] for q in task.queries]
        ),
    )


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Nearest pictures by their pixels at 16 x 16, whatever the sentence says."""
    task = task_of(cfg)
    assert task is not None
    small = F.interpolate(task.images.float(), size=PIXELS, mode="area").flatten(1)
    centred = small - small.mean(0)
    query = _references(task, centred)
    ranks = ranks_of(task, query, centred, task.gallery)
    save_items(task, ranks, workspace)
    return recall_figures(task, ranks)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A random phi before CLIP's own text tower."""
    torch.manual_seed(cfg.seed)
    composer, task = composer_of(cfg), task_of(cfg)
    assert task is not None
    with evaluated(composer, cfg.trainer.accelerator):
        return task_metrics(cfg, composer, task, encode_task(cfg, composer, task))


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Any picture but the reference."""
    task = task_of(cfg)
    assert task is not None
    others = len(task.gallery) - 1
    return {f"recall_at_{k}": k / others for k in (1, 5, 10)}
