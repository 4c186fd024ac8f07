"""``eval.own``: a user's pictures with reference captions."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.own_files import readable
from common.encoders.modes import untrained
from common.engine.workspace import Workspace
from common.evaluation.generation.captions import caption_metrics
from projects.close.baselines import training_texts
from projects.close.batches import Example
from projects.close.config import Config
from projects.close.evaluate import clip_of, gallery, unit_vectors, written
from projects.close.module import CLOSE
from projects.close.pairs import own_pairs
from projects.close.stages import build_module, make_inputs

SUFFIXES = (".png", ".jpg", ".jpeg")


def judge_captions(
    cfg: Config, module: CLOSE, workspace: Workspace, path: Path
) -> dict[str, float]:
    """BLEU, ROUGE-L and CIDEr of captions against a user's, several of which may be of a picture.

    Returns:
        ``num_images``, ``num_captions``, ``num_skipped``; those of `caption_metrics`, the same as
        ``untrained_*`` and ``nearest_caption_*``, the training caption whose vector is nearest.

    Raises:
        UserError: no row names an image, or too many images can't be read.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    rows = own_pairs(path, None)
    for row in rows:
        if row.image.lower().endswith(SUFFIXES):
            captions[row.image].append(row.texts[0])
    if not captions:
        raise UserError(f"{path}: no row names an image ({', '.join(SUFFIXES)})")
    names = list(captions)
    kept_names = [names[i] for i in readable([Path(name) for name in names], workspace.say)]
    captions = {name: captions[name] for name in kept_names}
    examples = [Example(tuple(t), image, tuple(t)) for image, t in captions.items()]
    files = replace(cfg, data=replace(cfg.data, source="official", task="s_cap", root="/"))
    clip = clip_of(cfg, module)
    vectors = unit_vectors(make_inputs(files, clip, examples, "image"), examples)
    known = training_texts(cfg)
    near = F.normalize(clip.encode_texts(known), dim=1)
    best = torch.cat([(part @ near.T).argmax(1) for part in torch.split(vectors, 256)])
    raw = untrained(lambda: build_module(cfg, clip), cfg.seed, module)
    texts = {
        "": written(files, module, vectors, examples),
        "untrained_": written(files, raw, vectors, examples),
        "nearest_caption_": [known[i] for i in best.tolist()],
    }
    kept = sum(map(len, captions.values()))
    metrics = {
        "num_images": float(len(examples)),
        "num_captions": float(kept),
        "num_skipped": float(len(rows) - kept),
    }
    for prefix, said in texts.items():
        values, items = caption_metrics(said, [e.targets for e in examples])
        metrics |= {f"{prefix}{name}": value for name, value in values.items()}
        if not prefix:
            for name, scores in items.items():
                workspace.items(name, scores)
            gallery(files, examples, said, workspace)
    return metrics
