"""The stages of a run: on the bundled pool two cross-fitted CLIP filters first, then the recipe."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.config import UserError, to_dict
from common.data.image.sources import CachedImages
from common.encoders.modes import evaluated
from common.engine.experiment import Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.families.image_text.data import require_judged_sets
from common.families.image_text.embedding import encode_images, encode_texts
from common.families.image_text.module import build_tokenizer
from projects.mofi.bundled import Pool, half_of, linked_rows, precision, read_pool
from projects.mofi.config import Config
from projects.mofi.data import (
    EntityName,
    EntitySet,
    file_set,
    files_of,
    read_entities,
    streamed_data,
    synthetic_set,
    train_transform,
    training_data,
)
from projects.mofi.gpr1200 import gpr_files, gpr_folder
from projects.mofi.knowledge import entity_text
from projects.mofi.module import MOFI
from projects.mofi.select import Row, entity_table, frequency_filter, split_by_score


def stages(cfg: Config) -> Iterator[Stage]:
    """The recipe on the config's set; the pool is filtered first."""
    require_judged_sets(cfg)
    if (folder := gpr_folder(cfg)) is not None:
        gpr_files(folder)  # what is wrong with it is told before training
    if cfg.data.source == "webdataset":
        table = read_entities(files_of(cfg)[-1])
        counts = torch.tensor([entity.count for entity in table])
        module = MOFI(cfg, None, len(table), counts)
        yield Stage("train", module, streamed_data(cfg, table, build_tokenizer(cfg.model)))
        return
    quality = None
    if cfg.data.source == "pool":
        pool = read_pool(cfg)
        rows = linked_rows(cfg, pool)
        if cfg.select.enabled:
            yield from scored(cfg, pool, rows)
        data, quality = pool_set(cfg, pool, rows)
    else:
        data = synthetic_set(cfg) if cfg.data.source == "synthetic" else file_set(cfg)
    module = MOFI(cfg, None, len(data.table), data.counts)
    if quality is not None:
        module.quality.copy_(quality)
    yield Stage("train", module, training_data(cfg, data, build_tokenizer(cfg.model)))


def scored(cfg: Config, pool: Pool, rows: Sequence[Row]) -> Iterator[Stage]:
    """Fill the CLIP scores: a model of one half scores the other, which it has never seen.

    Weights of equal settings that an earlier run has trained are loaded instead.
    """
    filter_cfg = filter_config(cfg)
    halves = half_of(cfg, pool.names)
    for half in (0, 1):
        filter_weights = filter_path(filter_cfg, half)
        module = MOFI(filter_cfg)
        part = (halves == half).nonzero()[:, 0]
        data = training_data(
            filter_cfg, alt_text_set(filter_cfg, pool, part), build_tokenizer(filter_cfg.model)
        )
        weights = filter_weights if filter_weights.is_file() else None
        trainer = {"max_steps": cfg.filter.steps, "val_every_n_steps": None}
        yield Stage(f"filter_{half}", module, data, trainer=trainer, weights=weights)
        keep_weights(filter_weights, module)
        with evaluated(module, cfg.trainer.accelerator):
            score_rows(filter_cfg, module, pool, rows, (halves != half).nonzero()[:, 0])


def filter_config(cfg: Config) -> Config:
    """Plain CLIP on the alt-texts: no entity is known to it."""
    method = replace(cfg.method, recipe="contrastive", same_entity="negative")
    optim = replace(cfg.optim, lr=cfg.filter.lr or cfg.optim.lr)
    return replace(cfg, method=method, optim=optim, data=replace(cfg.data, text="alt_text"))


def filter_path(cfg: Config, half: int) -> Path:
    """Where the weights of a filter are kept; the arms of a comparison share them."""
    plain = to_dict(cfg)
    parts = {name: plain[name] for name in ("data", "model", "optim", "filter", "seed")}
    parts |= {"half": half, "precision": cfg.trainer.precision}
    return kept_path(Path(cfg.runs_dir) / "mofi" / "filters", "filter", "mofi", parts)


def alt_text_set(cfg: Config, pool: Pool, part: Tensor) -> EntitySet:
    """Images of a part with alt-texts; all have the same nominal entity, which nothing reads."""
    images = CachedImages(pool.images[part], train_transform(cfg))
    texts = [pool.alt_texts[i] for i in part.tolist()]
    return EntitySet(images, texts, [[0]] * len(texts), [EntityName("-", "-", "", len(texts))])


def score_rows(cfg: Config, module: MOFI, pool: Pool, rows: Sequence[Row], part: Tensor) -> None:
    """Write the cosine of image and entity text into the rows of a part."""
    named = [(i, entity) for i in part.tolist() for entity in rows[i]["entities"]]
    texts = {entity["id"]: f"a {entity_text(_named(entity), False)}" for _, entity in named}
    order = {name: place for place, name in enumerate(texts)}
    words = encode_texts(cfg, module, list(texts.values()))
    pictures = encode_images(cfg, module, pool.images[part])
    place = {i: k for k, i in enumerate(part.tolist())}
    for i, entity in named:
        cosine = float(pictures[place[i]] @ words[order[entity["id"]]])
        entity["clip_score"] = round(cosine, 4)


def _named(entity: Row) -> EntityName:
    return EntityName(entity["id"], entity["name"], entity["description"], 0)


def pool_set(cfg: Config, pool: Pool, rows: Sequence[Row]) -> tuple[EntitySet, Tensor]:
    """The finished set, and what the selection did: see `MOFI.quality`."""
    kept, _ = split_by_score(rows, cfg.select)
    left, numbers = frequency_filter(kept, cfg.select.min_images, cfg.select.cap)
    if not left:
        raise UserError("no image keeps an entity: lower select.threshold or select.min_images")
    place = {name: i for i, name in enumerate(pool.names)}
    part = torch.tensor([place[row["image"]] for row in left])
    truth = [pool.truth[i] for i in part.tolist()]
    before, linked = precision(cfg, rows, pool.truth)
    after, count = precision(cfg, left, truth)
    quality = torch.tensor([before, after, count / max(1, linked), len(left) / len(rows)])
    table = [EntityName(*entry) for entry in entity_table(left, numbers)]
    order = [[numbers[e["id"]] for e in row["entities"]] for row in left]
    images = CachedImages(pool.images[part], train_transform(cfg))
    return EntitySet(images, [row["alt_text"] for row in left], order, table), quality
