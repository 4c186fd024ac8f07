"""``eval.own``: composed queries of a user, JSON lines of reference, text and target."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from common.config import UserError
from common.data.decode import decode_image
from common.data.own_files import readable
from common.data.tables import read_jsonl
from common.encoders import modes
from common.engine.workspace import Workspace
from projects.rtd.config import Config
from projects.rtd.drawings import Query
from projects.rtd.evaluate import (
    KS,
    Task,
    composed,
    composed_gallery,
    encode_task,
    ranks_of,
)
from projects.rtd.module import ComposedModule

COLUMNS = ("reference", "text", "target")
KIND = "own"


def read_task(cfg: Config, path: Path, say: Callable[[str], None]) -> tuple[Task, int]:
    """Queries of a file over all images that it names; and how many rows were left out.

    Rows that lack a value, whose image can't be read, or whose target is the reference, are left
    out. Paths are relative to the file.

    Args:
        cfg: the project's config.
        path: of the file.
        say: takes a line about images that can't be read.

    Raises:
        UserError: no row can be used, or too many images can't be read.
    """
    rows = read_jsonl(path, COLUMNS)
    cells = [tuple(str(row[name] or "").strip() for name in COLUMNS) for row in rows]
    named = list(dict.fromkeys(name for a, text, b in cells if a and text and b for name in (a, b)))
    images = {named[i] for i in readable([path.parent / name for name in named], say)}
    places: dict[str, int] = {}
    asked = []
    for number, (reference, text, target) in enumerate(cells):
        if not text or reference == target or not {reference, target} <= images:
            continue
        first, second = (places.setdefault(name, len(places)) for name in (reference, target))
        asked.append(Query(first, text, second, KIND, str(number)))
    if not asked:
        raise UserError(f"{path} has no row with a reference, a text and another target")
    size = cfg.data.image_size
    pixels = torch.stack([_square(path.parent / name, size) for name in places])
    task = Task(pixels, [Path(name).stem for name in places], asked, list(range(len(places))))
    return task, len(rows) - len(asked)


def judge_queries(
    cfg: Config, module: ComposedModule, workspace: Workspace, path: Path
) -> dict[str, float]:
    """Recall of the targets among all pictures of a user's file, the reference left out.

    Returns:
        ``num_queries``, ``num_images``, ``num_skipped``; ``recall_at_1``, ``_5``, ``_10`` and
        ``mrr``, recalls with ``_chance``; the same as ``untrained_*`` (CLIP's text encoder, not in
        an export), ``image_only_*``, ``text_only_*`` and ``image_plus_text_*``.

    Raises:
        UserError: see `read_task`.
    """
    task, skipped = read_task(cfg, path, workspace.say)
    composer, searched = module.composer, len(task.images) - 1
    with modes.evaluated(module, cfg.trainer.accelerator):
        images = encode_task(cfg, composer, task)
        query = composed(cfg, composer, task, images)
        encode = composer.anchor if composer.has_anchor else composer.query
        tokens = composer.tokens([q.condition for q in task.queries])
        texts = F.normalize(encode(tokens).float().cpu(), dim=1)
        references = F.normalize(images[[q.reference for q in task.queries]], dim=1)
        rows = {"": query, "image_only_": references, "text_only_": texts}
        rows["image_plus_text_"] = F.normalize(references + texts, dim=1)
        if composer.has_anchor:
            rows["untrained_"] = composed(cfg, composer, task, images, anchor=True)
        workspace.gallery("composed queries", composed_gallery(task, query, images))
    metrics = {
        "num_queries": float(len(task.queries)),
        "num_images": float(len(task.images)),
        "num_skipped": float(skipped),
    }
    for prefix, vectors in rows.items():
        ranks = ranks_of(task, vectors, images, task.gallery)
        if not prefix:
            workspace.items("recall_at_1", (ranks <= 1).double().tolist())
        figures = {f"recall_at_{k}": float((ranks <= k).double().mean()) for k in KS}
        figures["mrr"] = float((1 / ranks.double()).mean())
        metrics |= {f"{prefix}{name}": value for name, value in figures.items()}
    return metrics | {f"recall_at_{k}_chance": min(1.0, k / max(1, searched)) for k in KS}


def _square(file: Path, size: int) -> Tensor:
    """A picture as (3, S, S) uint8: shorter side resized, centre cut out."""
    image = decode_image(file).convert("RGB")
    resized = vision.resize(image, [size], antialias=True)
    pixels: Tensor = vision.pil_to_tensor(vision.center_crop(resized, [size, size]))
    return pixels
