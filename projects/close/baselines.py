"""Training-free baselines: chance, commonest class, retrieval, zero-shot, untrained."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.samplers import sample_rng
from common.encoders.image_text.frozen_clip import FrozenClip
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.families.image_text.photographs import CLASSES, UNSEEN_PHOTO_TEMPLATES
from projects.close.batches import Example
from projects.close.bundled import is_photo
from projects.close.config import Config
from projects.close.data import load_examples
from projects.close.evaluate import judged, score, unit_vectors, written
from projects.close.stages import build_module, make_inputs

RANDOM_STREAM = 51


def random_caption(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A training caption at random."""
    examples, texts = judged(_checked(cfg)), training_texts(cfg)
    rng = sample_rng(cfg.seed, 0, 0, RANDOM_STREAM)
    drawn = [texts[int(i)] for i in rng.integers(len(texts), size=len(examples))]
    return score(cfg, examples, drawn, workspace)


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """One class word for all photographs, one frequent word for all drawings."""
    examples = judged(_checked(cfg))
    texts = [CLASSES[0] if is_photo(e) else "arrow" for e in examples]
    return score(cfg, examples, texts, workspace)


def nearest_caption(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The training caption whose vector is nearest to the image's."""
    return _nearest(cfg, workspace, shifted=False)


def nearest_caption_centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same after each modality's mean was subtracted: the mean shift without a decoder."""
    return _nearest(cfg, workspace, shifted=True)


def _nearest(cfg: Config, workspace: Workspace, *, shifted: bool) -> dict[str, float]:
    clip, examples, images = image_vectors(cfg)
    texts = training_texts(cfg)
    vectors = F.normalize(clip.encode_texts(texts), dim=1)
    if shifted:
        vectors, images = (F.normalize(x - x.mean(0), dim=1) for x in (vectors, images))
    best = torch.cat([(part @ vectors.T).argmax(1) for part in torch.split(images, 256)])
    return score(cfg, examples, [texts[i] for i in best.tolist()], workspace)


def zero_shot(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The dual encoder's choice among class words, or for a drawing among training names."""
    clip, examples, images = image_vectors(cfg)
    sentences = [t.format(name) for name in CLASSES for t in UNSEEN_PHOTO_TEMPLATES]
    by_class = F.normalize(clip.encode_texts(sentences), dim=1).view(len(CLASSES), -1, clip.dim)
    words = _best(images, F.normalize(by_class.mean(1), dim=1), CLASSES)
    names = sorted({e.label for e in load_examples(cfg, "train") if not is_photo(e)})
    titles = words
    if names:
        titles = _best(images, F.normalize(clip.encode_texts(names), dim=1), names)
    texts = [w if is_photo(e) else n for w, n, e in zip(words, titles, examples, strict=True)]
    return score(cfg, examples, texts, workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The language model before training."""
    clip, examples, images = image_vectors(cfg)
    module = as_training_begins(lambda: build_module(cfg, clip), cfg.seed)
    return score(cfg, examples, written(cfg, module, images, examples), workspace)


def image_vectors(cfg: Config) -> tuple[FrozenClip, list[Example], Tensor]:
    """Dual encoder, judged examples and the unit vectors of their images."""
    clip = FrozenClip(_checked(cfg).model.clip)
    examples = judged(cfg)
    return clip, examples, unit_vectors(make_inputs(cfg, clip, examples, "image"), examples)


def training_texts(cfg: Config) -> list[str]:
    """Distinct training captions."""
    return list(dict.fromkeys(e.texts[0] for e in load_examples(cfg, "train")))


def _best(images: Tensor, vectors: Tensor, names: Sequence[str]) -> list[str]:
    return [names[i] for i in (images @ vectors.T).argmax(1).tolist()]


def _checked(cfg: Config) -> Config:
    if cfg.data.source != "bundled":
        raise UserError("the baselines are of data.source=bundled")
    return cfg
