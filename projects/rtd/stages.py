"""Stages of an experiment: the host's phi, then the text tower; and what `make check` builds."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError, to_dict
from common.data.image.sources import ImageSource
from common.data.image_text.shards import is_local, names_of, place
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.distributed.process import is_rank_zero
from common.encoders.modes import evaluated
from common.engine.experiment import (
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    weights_requirement,
)
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.files import write_text
from projects.rtd.composer import Composer, build_composer, prepare_as_trained
from projects.rtd.config import Config, names_shards
from projects.rtd.data import (
    HiddenCaptions,
    Images,
    Inverted,
    TripletBatches,
    concepts_of,
    host_images,
    image_embeddings,
    streamed_images,
    tagger_of,
    tokenizer_of,
    train_captions,
    triplet_source,
)
from projects.rtd.evaluate import judge_of
from projects.rtd.hosts import HOSTS
from projects.rtd.key_phrases import LEMMAS, absent
from projects.rtd.module import RTD, ComposedModule
from projects.rtd.oti import Phrases, invert, nearest_concepts, read_phrases


def composer_of(cfg: Config) -> Composer:
    """CLIP and phi as training begins with them."""
    return build_composer(
        cfg.model, cfg.phi, cfg.data.image_size, cfg.rtd.template, l2_normalize=cfg.rtd.l2_normalize
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """Stage "host" unless a checkpoint of phi is given, then "rtd" unless it is switched off."""
    composer = composer_of(cfg)
    host: ComposedModule | None = None
    if cfg.phi.weights is None:
        host = HOSTS[cfg.phi.host](cfg, composer)
        host_options = {
            "max_steps": cfg.phi.steps,
            "max_epochs": None,
            "val_every_n_steps": None,
            "ema_decay": cfg.phi.ema_decay,
        }
        kept = kept_phi(cfg) if cfg.phi.keep else None
        weights = kept if kept is not None and kept.is_file() else None
        yield Stage("host", host, host_data(cfg, host), host_options, weights=weights)
        if kept is not None and is_rank_zero():
            keep_weights(kept, host)
            remember_seconds(kept.with_suffix(".json"), host)
    if cfg.rtd.enabled:
        module = RTD(cfg, composer)
        if host is not None:
            module.seconds |= host.seconds
        yield Stage("rtd", module, *rtd_data(cfg, module))


def rtd_data(cfg: Config, module: RTD) -> tuple[ContrastiveData, dict[str, object], str | None]:
    """Data of the stage "rtd", its trainer options and what chooses the checkpoint."""
    size, draw = triplet_source(cfg)
    tokenizer, dim = tokenizer_of(module.composer), module.composer.encoder.embed_dim
    train = TripletBatches(size, draw, tokenizer, cfg.rtd, dim, cfg.seed)
    val = {}
    if cfg.eval.validate:
        count, module.judge = judge_of(cfg)
        val = {"composed": _Places(count)}
    data = ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )
    return data, {}, "val/recall_at_1" if val else None


class _Places(torch.utils.data.Dataset[int]):
    """Places of the development queries."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class InvertedImages(ContrastiveData):
    """Training data of SEARLE, made when its fit begins: a phi that is there already needs none.

    Args:
        size: number of images.
        make: inverts them.
        **options: of `ContrastiveData`.
    """

    def __init__(self, size: int, make: Callable[[], Inverted], **options: Any) -> None:
        super().__init__(_Places(size), **options)
        self.make = make

    def setup(self, stage: str) -> None:
        """Invert the images; every rank is here."""
        self.train_set = self.make()


def host_data(cfg: Config, host: ComposedModule) -> ContrastiveData:
    """Training data of phi."""
    composer = host.composer
    tokenizer, dim = tokenizer_of(composer), composer.encoder.embed_dim
    options: dict[str, Any] = {
        "batch_size": cfg.phi.batch_size,
        "seed": cfg.seed,
        "num_workers": cfg.data.num_workers,
    }
    if cfg.phi.host == "lincir":
        captions = HiddenCaptions(train_captions(cfg), tagger_of(cfg), tokenizer, dim, cfg.seed)
        return ContrastiveData(captions, **options)
    if cfg.phi.host == "pic2word":
        if (stream := streamed_images(cfg, composer.encoder)) is not None:
            return ContrastiveData(stream, **options)
        return ContrastiveData(Images(*host_images(cfg, composer.encoder), cfg.seed), **options)
    phrases = Phrases(concepts_of(cfg), read_phrases(cfg.phi.searle.phrases))
    source, size = host_images(cfg, composer.encoder)
    return InvertedImages(size, partial(inverted, cfg, host, phrases, source, size), **options)


def inverted(
    cfg: Config, host: ComposedModule, phrases: Phrases, source: ImageSource, size: int
) -> Inverted:
    """SEARLE's first stage: a token for every image, kept in memory.

    Its wall time is the host's.
    """
    began, composer, options = time.perf_counter(), host.composer, cfg.phi.searle
    with evaluated(composer, cfg.trainer.accelerator):
        images = image_embeddings(composer, source, size, options.batch_size)
        near = nearest_concepts(composer, images, phrases, options.concepts)
        with torch.enable_grad():
            tokens = invert(composer, images, near, phrases, options, cfg.seed)
    host.seconds[host.learns] = time.perf_counter() - began
    return Inverted(images, tokens, near, phrases, tokenizer_of(composer), cfg.seed)


def kept_phi(cfg: Config) -> Path:
    """Where a host's phi is kept: what RTD does with it does not count."""
    plain = to_dict(cfg)
    parts = {name: plain[name] for name in ("model", "phi", "seed")}
    data = ("source", "root", "captions", "images", "image_size", "tagger")
    parts["data"] = {name: plain["data"][name] for name in data}
    parts["sentences"] = [cfg.rtd.special, cfg.rtd.l2_normalize, cfg.trainer.precision]
    return kept_path(Path(cfg.runs_dir) / "rtd" / "hosts", cfg.phi.host, "rtd", parts)


def remember_seconds(path: Path, host: ComposedModule) -> None:
    """The wall time of a kept phi, which a later run reads in place of fitting it."""
    if host.seconds:
        write_text(path, json.dumps(host.seconds))
    elif path.is_file():
        host.seconds |= json.loads(path.read_text(encoding="utf-8"))


# -- make check ----------------------------------------------------------------------------------


def plan(cfg: Config) -> Plan[ComposedModule]:
    """What `make check` reports on."""

    def module() -> ComposedModule:
        return RTD(cfg, bare_composer(cfg))

    def forward(built: ComposedModule, batch_size: int) -> Tensor:
        length = built.composer.tokens(["x"]).shape[1]
        rows = 2 * batch_size if cfg.rtd.refined_batch else batch_size
        return built.composer.query(torch.zeros(rows, length, dtype=torch.long)).sum()

    return Plan(module, num_samples(cfg), forward, requirements(cfg))


def bare_composer(cfg: Config) -> Composer:
    """The composer without weights, for sizes, and to take those of a checkpoint."""
    from dataclasses import replace

    model = cfg.model
    named = model.pretrained.startswith("open_clip:")
    if named:
        name = model.pretrained.removeprefix("open_clip:").split("/")[0]
        model = replace(model, open_clip=name, pretrained="random")
    host = replace(cfg.phi, weights=None)
    composer = build_composer(
        model, host, cfg.data.image_size, cfg.rtd.template, l2_normalize=cfg.rtd.l2_normalize
    )
    if named:  # pictures are read as those weights were trained
        prepare_as_trained(composer.encoder, cfg.model.pretrained)
    return composer


def num_samples(cfg: Config) -> int:
    """Triplets of an epoch; of files that are not here, what the config says."""
    try:
        return triplet_source(cfg)[0]
    except UserError:
        return cfg.data.num_samples or 1


def _tags_captions(cfg: Config) -> bool:
    """Whether key phrases of captions are looked for: by the host, or by rules for triplets."""
    data, phi = cfg.data, cfg.phi
    if data.source == "synthetic":
        return False
    concepts = phi.host == "searle" and phi.searle.vocabulary is None
    by_host = phi.weights is None and (phi.host == "lincir" or concepts)
    return data.source == "drawings" or data.rules or by_host


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Weights, training files and evaluation sets."""
    root = data_root(cfg.data.root)
    needed = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source == "drawings":
        needed += [
            bundled_requirement(name) for name in ("emoji-captions", "emoji-tones", "drawings")
        ]
    if cfg.phi.weights is not None:
        path = Path(cfg.phi.weights)
        needed.append(Requirement("phi", str(path), path.is_file(), "a checkpoint of the host"))
    hints = {
        "triplets": "make run PROJECT=rtd TASK=triplets, or the release's LLM_triplets.json",
        "captions": "one caption per line, such as CC3M's",
        "images": "a folder of pictures, or shards of them",
    }
    for name, hint in hints.items():
        value = getattr(cfg.data, name)
        if cfg.data.source == "files" and value is not None:
            first = next(names_of(value)) if names_shards(value) else value
            path = root / first
            present = path.exists() or not is_local(first)
            needed.append(Requirement(f"data: {name}", place(first, root), present, hint))
    if _tags_captions(cfg) and cfg.data.tagger != LEMMAS:
        missing = absent(cfg.data.tagger)
        needed.append(
            Requirement("data.tagger", cfg.data.tagger, missing is None, missing or "of spaCy")
        )
    for name in ("fashioniq", "cirr", "circo", "genecis"):
        folder = getattr(cfg.eval, name)
        if folder is not None:
            path = root / folder
            needed.append(
                Requirement(f"eval: {name}", str(path), path.is_dir(), "the official layout")
            )
    return tuple(needed)
