"""The stage of an experiment: vectors of its examples, statistics of its adapter.

What `make check` reports on.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError
from common.data.module import ContrastiveData
from common.encoders.image_text.frozen_clip import FrozenClip
from common.engine.experiment import Plan, Requirement, Stage, weights_requirement
from common.evaluation.features.cached import cached_features
from projects.close import bundled, official
from projects.close.batches import CloseRows, Example, ImageInputs, TextInputs, Words
from projects.close.config import Config
from projects.close.data import Part, epoch_size, image_opener, load_examples, requirements
from projects.close.modality_gap import (
    GapStatistics,
    gap_statistics,
    read_gap_statistics,
)
from projects.close.module import CLOSE
from projects.close.network import build_language, clip_dim, dry_language, make_adapter


def make_inputs(
    cfg: Config, clip: FrozenClip, examples: Sequence[Example], kind: str
) -> TextInputs | ImageInputs:
    """Vectors of examples by text or image; with text no image is opened."""
    cached = cfg.model.cache
    if kind == "text":
        texts = [text for e in examples for text in e.texts]
        return TextInputs(
            clip, texts, cached=cached, features=_kept(cfg, clip, clip.encode_texts, kind)
        )
    inputs = ImageInputs(clip, [e.image for e in examples], image_opener(cfg), cached=False)
    if cached:
        names = [e.image for e in examples]
        return ImageInputs(
            clip, names, inputs.open_image, features=_kept(cfg, clip, inputs.encode, kind)
        )
    return inputs


def _kept(
    cfg: Config, clip: FrozenClip, encode: Callable[[list[str]], Tensor], kind: str
) -> Callable[[list[str]], Tensor]:
    """`encode` with its result in ``model.cache_dir``, a folder for each list of names."""

    def run(names: list[str]) -> Tensor:
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        folder = (
            None if cfg.model.cache_dir is None else Path(cfg.model.cache_dir) / f"{kind}-{digest}"
        )

        def compute() -> tuple[Tensor, Tensor]:
            if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu":
                clip.to(torch.device("cuda"))
            return encode(names), torch.arange(len(names))

        return cached_features(compute, folder, clip.encoder, {"kind": kind, "names": digest})[0]

    return run


def rows_of(
    cfg: Config,
    module: CLOSE,
    inputs: TextInputs | ImageInputs,
    examples: Sequence[Example],
    *,
    training: bool,
) -> CloseRows:
    """Examples as batches."""
    draws = module.adapter.num_draws if training and inputs.is_text else 0
    return CloseRows(
        examples,
        inputs,
        Words(module.tokenizer, cfg.data.max_context),
        Words(module.tokenizer, cfg.data.max_target),
        seed=cfg.seed,
        size=epoch_size(cfg, len(examples)) if training else None,
        num_draws=draws,
        dim=inputs.clip.dim,
    )


def build_module(cfg: Config, clip: FrozenClip) -> CLOSE:
    """Module before training."""
    language, tokenizer = build_language(cfg.model, clip.dim)
    adapter = make_adapter(cfg, clip.dim, statistics_of(cfg, clip))
    return CLOSE(cfg, language, tokenizer, clip, adapter)


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "train"; its last checkpoint is kept, as released."""
    check_parts(cfg)
    clip = FrozenClip(cfg.model.clip, half=cfg.model.half)
    module = build_module(cfg, clip)

    def rows(part: Part, training: bool) -> CloseRows:
        examples = load_examples(cfg, part)
        if not training:
            examples = examples[: cfg.eval.limit]
        return rows_of(
            cfg,
            module,
            make_inputs(cfg, clip, examples, cfg.data.inputs),
            examples,
            training=training,
        )

    val = {"dev": rows("dev", False)} if cfg.trainer.val_every_n_steps is not None else {}
    data = ContrastiveData(
        rows("train", True),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )
    yield Stage("train", module, data)


def check_parts(cfg: Config) -> None:
    """Refuse, before training, a part that the evaluation after it could not read.

    Raises:
        UserError: the task has no development part.
    """
    if cfg.data.source == "official":
        validates = cfg.trainer.val_every_n_steps is not None
        official.check_part(cfg.data.task, "dev" if validates else cfg.eval.split)


def plan(cfg: Config) -> Plan[CLOSE]:
    """What `make check` reports on."""
    check_parts(cfg)
    needed = requirements(cfg)

    def module() -> CLOSE:
        dim = clip_dim(cfg.model.clip)
        language, tokenizer = dry_language(cfg.model, dim)
        return CLOSE(cfg, language, tokenizer, None, make_adapter(cfg, dim, None))

    def forward(module: CLOSE, batch_size: int) -> Tensor:
        vectors = torch.zeros(batch_size, module.language.to_tokens.in_features)
        labels = torch.ones(batch_size, cfg.data.max_target, dtype=torch.long)
        context = torch.ones(batch_size, cfg.data.max_context, dtype=torch.long)
        logits: Tensor = module.language(vectors, labels, None, context, context)
        return logits.sum()

    here = all(r.present for r in needed)
    count = epoch_size(cfg, len(load_examples(cfg, "train"))) if here else 0
    weights = [*map(weights_requirement, (cfg.model.clip, cfg.model.pretrained))]
    return Plan(module, count, forward, (*chain(*weights), *needed, *statistics_requirement(cfg)))


# -- statistics ----------------------------------------------------------------------------------


def statistics_requirement(cfg: Config) -> tuple[Requirement, ...]:
    """The file of the adapter's statistics, if the config names one."""
    statistics = cfg.method.statistics
    if statistics is None or statistics == "pairs":
        return ()
    path = Path(statistics).expanduser()
    hint = "make run PROJECT=close TASK=statistics writes it"
    return (Requirement("adapter statistics", str(path), path.is_file(), hint),)


def statistics_of(cfg: Config, clip: FrozenClip) -> GapStatistics | None:
    """Statistics for the adapter: of a file, or of held-back pairs whose images are read here."""
    statistics = cfg.method.statistics
    if statistics is None:
        return None
    return (
        pair_statistics(cfg, clip)
        if statistics == "pairs"
        else read_gap_statistics(Path(statistics).expanduser())
    )


def pair_statistics(cfg: Config, clip: FrozenClip) -> GapStatistics:
    """Statistics of pairs that training leaves out: COCO's restval, or bundled pairs.

    Raises:
        UserError: a source without such pairs.
    """
    text, image = pair_vectors(cfg, clip, statistic_pairs(cfg))
    return gap_statistics(text, image)


def statistic_pairs(cfg: Config) -> list[Example]:
    """Pairs for statistics; none of them is trained on."""
    if cfg.data.source == "official" and cfg.data.task in ("s_cap", "m_cap"):
        captions = official.captions(
            replace(cfg.data, task="s_cap", inputs="text", splits=["restval"]), "train"
        )
        return captions[::5][:30_000]  # a caption an image
    if cfg.data.source == "synthetic":
        return load_examples(cfg, "train")
    if cfg.data.source in ("bundled", "text"):
        return bundled.examples(cfg.data, "pairs", cfg.seed)
    raise UserError(
        "pairs are those of captioning: write method.statistics with its TASK=statistics"
    )


def pair_vectors(cfg: Config, clip: FrozenClip, pairs: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) of the first text and of the image of each pair, not normalised."""
    images = ImageInputs(clip, [e.image for e in pairs], image_opener(cfg))
    return clip.encode_texts([e.texts[0] for e in pairs]), images(pairs)["features"]
