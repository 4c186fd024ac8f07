"""``eval.own``: a user's images with captions, each ranked by its likelihood."""

from pathlib import Path

import torch
from torch.nn import functional as F

from common.data.decode import decode_image
from common.data.image_text.captions import CaptionFiles
from common.data.own_files import readable
from common.data.samplers import sample_rng
from common.data.tables import num_rows
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.cosmo.config import Config
from projects.cosmo.evaluate import (
    CANDIDATE_STREAM,
    Judged,
    likelihood_metrics,
    reciprocal_ranks,
    written_metrics,
)
from projects.cosmo.module import COSMO
from projects.cosmo.stages import build_module, encode

SHOWN = 12  # captions of the gallery


def judge_captions(
    cfg: Config, module: COSMO, workspace: Workspace, path: Path
) -> dict[str, float]:
    """Rank of a caption's image among ``eval.candidates`` others by the caption's likelihood.

    Args:
        cfg: the project's config.
        module: trained.
        workspace: takes items, galleries and a note on images that can't be read.
        path: a CSV ``path,caption`` without header; an image may have several captions.

    Returns:
        ``num_images``, ``num_captions``, ``num_skipped``, ``num_written`` (images for which captions
        are written, at most ``eval.written``); those of `likelihood_metrics` and
        `written_metrics`; ``untrained_mrr``, ``untrained_recall_at_1`` and the same of the frozen
        dual encoder's cosine as ``dual_encoder_*``.

    Raises:
        UserError: no row names an image, or too many images can't be read.
    """
    files = CaptionFiles(path)
    places: dict[Path, int] = {}
    owners = [places.setdefault(files.path(i), len(places)) for i in range(len(files))]
    paths = list(places)
    kept = {old: new for new, old in enumerate(readable(paths, workspace.say))}
    rows = [i for i, owner in enumerate(owners) if owner in kept]
    captions, images = [files.texts(i)[0] for i in rows], [kept[owners[i]] for i in rows]
    pictures = [decode_image(paths[old]).convert("RGB") for old in kept]
    judged = Judged(pictures, captions, _candidates(images, len(pictures), cfg.eval.candidates))
    metrics = {
        "num_images": float(len(pictures)),
        "num_captions": float(len(captions)),
        "num_skipped": float(num_rows(path) - len(captions)),
        "num_written": float(min(cfg.eval.written, len(pictures))),
    }
    patches = encode(module.tower, cfg, pictures)[:, None, None]
    with evaluated(module, cfg.trainer.accelerator):
        metrics |= likelihood_metrics(cfg, module, judged, patches, workspace)
    raw = untrained(lambda: build_module(cfg, module.tower), cfg.seed, module)
    with evaluated(raw, cfg.trainer.accelerator):
        before = likelihood_metrics(cfg, raw, judged, patches, None)
    clip = FrozenClip(cfg.model.vision)
    texts, vectors = clip.encode_texts(captions), clip.encode_images(pictures)
    cosines = F.normalize(texts, dim=1) @ F.normalize(vectors, dim=1).T
    ranks = reciprocal_ranks(cosines.gather(1, judged.candidates))
    first = {image: i for i, image in reversed([*enumerate(images)])}
    one_each = [captions[first[i]] for i in range(len(pictures))]
    return {
        **metrics,
        **written_metrics(cfg, module, Judged(pictures, one_each, judged.candidates), workspace),
        "untrained_mrr": before["mrr"],
        "untrained_recall_at_1": before["recall_at_1"],
        "dual_encoder_mrr": sum(ranks) / len(ranks),
        "dual_encoder_recall_at_1": sum(r == 1.0 for r in ranks) / len(ranks),
    }


def _candidates(images: list[int], count: int, size: int) -> torch.Tensor:
    """(T, C) images that each caption is ranked among: its own, then others at random."""
    table = []
    for i, own in enumerate(images):
        others = sample_rng(0, 2, i, CANDIDATE_STREAM).permutation(count - 1)[: size - 1]
        table.append([own, *(int(j) + int(j >= own) for j in others)])
    return torch.tensor(table)
