"""``eval.own``: a user's images with captions, in one language or several."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError
from common.data.decode import decode_image
from common.data.image import sources as im
from common.data.image_text.captions import CaptionFiles
from common.data.own_files import readable
from common.data.tables import num_rows, read_jsonl
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.gallery import retrieval_gallery
from projects.one_to_k.config import Config
from projects.one_to_k.data import EvalSet, build_tokenizer
from projects.one_to_k.evaluate import KS, ranks_of, save_items, table
from projects.one_to_k.module import OneToK
from projects.one_to_k.retrieval_sets import grouped
from projects.one_to_k.start import starting_module

ALONE = "captions"  # the language of a CSV
SIDE = 96  # pixels of the gallery's images


def judge_captions(
    cfg: Config, module: OneToK, workspace: Workspace, path: Path
) -> dict[str, float]:
    """Recall in every language, its spread and the variance of ranks on a user's images.

    Args:
        cfg: the project's config.
        module: trained.
        workspace: takes items, galleries and a note on images that can't be read.
        path: JSON lines ``{"image_path": ..., "caption": {"en": ..., "de": ...}}``, or a CSV
            ``path,caption``; paths are relative to the file. An image may have several lines; of a
            line without a language the others count.

    Returns:
        ``num_images``, ``num_captions``, ``num_skipped`` (rows without image or caption); those of
        `table`, also as ``untrained_*``, and ``recall_mean_chance``.

    Raises:
        UserError: no row has an image and a caption, or too many images can't be read.
    """
    rows, total = _rows(path)
    names = list(dict.fromkeys(name for name, _ in rows))
    kept = {names[i] for i in readable([path.parent / name for name in names], workspace.say)}
    rows = [(name, captions) for name, captions in rows if name in kept]
    languages = sorted({language for _, captions in rows for language in captions})
    sets = {
        language: grouped([(name, c[language]) for name, c in rows if language in c])
        for language in languages
    }
    eval_set = EvalSet(sets, partial(_pixels, im.SquareTransform(cfg.data.image_size), path.parent))
    tokenizer = build_tokenizer(cfg.model)
    with evaluated(module, cfg.trainer.accelerator):
        ranks, scores = ranks_of(cfg, module.network, eval_set, tokenizer)
    raw = untrained(lambda: starting_module(cfg, OneToK), cfg.seed, module)
    with evaluated(raw, cfg.trainer.accelerator):
        before = table(path.stem, ranks_of(cfg, raw.network, eval_set, tokenizer)[0], eval_set)
    save_items(workspace, path.stem, ranks, eval_set)
    for (language, one), cosines in zip(sets.items(), scores, strict=True):
        items = [_small(path.parent / name) for name in one.images]
        gallery = retrieval_gallery(cosines.T, one.texts, items, one.image_of_text, num_queries=5)
        workspace.gallery(f"{language} to images", gallery)
    metrics = {
        "num_images": float(len({name for name, _ in rows})),
        "num_captions": float(sum(len(captions) for _, captions in rows)),
        "num_skipped": float(total - len(rows)),
        **table(path.stem, ranks, eval_set),
    }
    chances = [sum(min(1, k / len(one.images)) for k in KS) / len(KS) for one in sets.values()]
    metrics["recall_mean_chance"] = sum(chances) / len(chances)
    return metrics | {f"untrained_{name}": value for name, value in before.items()}


def _rows(path: Path) -> tuple[list[tuple[str, dict[str, str]]], int]:
    """(image, captions by language) of the rows that have both, and the number of all rows."""
    if path.suffix == ".csv":
        files = CaptionFiles(path)
        pairs = [
            (str(files.path(i).relative_to(path.parent)), {ALONE: files.texts(i)[0]})
            for i in range(len(files))
        ]
        return pairs, num_rows(path)
    lines = read_jsonl(path, ("image_path", "caption"))
    rows = []
    for number, line in enumerate(lines, start=1):
        captions = line["caption"]
        captions = {ALONE: captions} if isinstance(captions, str) else captions
        if not isinstance(captions, dict):
            raise UserError(f"{path}, row {number}: 'caption' has to be texts by language")
        texts = {x: str(text).strip() for x, text in captions.items() if str(text or "").strip()}
        if line["image_path"] and texts:
            rows.append((str(line["image_path"]), texts))
    if not rows:
        raise UserError(f"{path} has no row with an image and a caption")
    return rows, len(lines)


def _pixels(transform: im.SquareTransform, folder: Path, names: Sequence[str]) -> Tensor:
    return torch.stack([transform.one(decode_image(folder / name)) for name in names])


def _small(path: Path) -> object:
    image = decode_image(path).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return image
