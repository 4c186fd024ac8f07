"""Training data: images with their entities, one of which is drawn at every access."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.deferred import finished
from common.data.image.sources import (
    CachedImages,
    ImageFiles,
    TrainTransform,
    View,
    ViewSource,
    batch_of,
    read_views,
)
from common.data.image.synthetic import synthetic_pairs
from common.data.image_text.shards import Sample, is_local, names_of, sample_image
from common.data.lines import LineFile
from common.data.lookup import data_root, require
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from common.data.text.tokenizers import ClipTokenizer
from common.families.image_text import data as image_text
from projects.mofi.config import Config
from projects.mofi.knowledge import entity_text, read_table
from projects.mofi.objective import NO_ENTITY

IMAGE_STREAM, LABEL_STREAM = 0, 33
TABLE = "entities.tsv"
NUM_SYNTHETIC = 64


class EntityBatch(TypedDict):
    """Images of one step; rows of all tensors belong together."""

    images: Tensor  # (B, 3, S, S) float32
    labels: Tensor  # (B,) int64 number of the drawn entity
    entities: Tensor  # (B, E) int64 numbers of all entities, -1 for none
    tokens: Tensor  # (B, L) int64 of the text
    texts: list[str]
    ids: Tensor  # (B,) int64 rows of the set
    skipped: int


@dataclass(frozen=True)
class EntityName:
    """An entity of a set."""

    id: str
    name: str
    description: str
    count: int


@dataclass(frozen=True)
class EntitySet:
    """Images with entities.

    Attributes:
        images: source with the training transform.
        alt_texts: one for each image.
        numbers: numbers of the entities of each image, at least one.
        table: entity of each number.
    """

    images: ViewSource
    alt_texts: Sequence[str]
    numbers: Sequence[Sequence[int]]
    table: Sequence[EntityName]

    @cached_property
    def counts(self) -> Tensor:
        """(C,) images of each entity."""
        return torch.tensor([entity.count for entity in self.table])


class EntityImages(Dataset[EntityBatch]):
    """Training set; item = batch of a list of keys ``(index, epoch)``.

    Source: Wu et al. 2024, section 3.2, arXiv 2306.07952: one entity of an image is drawn per step.

    Args:
        data: images with entities.
        tokenizer: texts -> ids.
        seed: the experiment's seed.
        text: of the contrast: the drawn entity's name, name and description, or the alt-text.
        max_entities: E.

    Raises:
        UserError: on access, an image of more entities: one left out could be drawn as a negative.
    """

    def __init__(
        self, data: EntitySet, tokenizer: ClipTokenizer, *, seed: int, text: str, max_entities: int
    ) -> None:
        self.data, self.tokenizer, self.seed = data, tokenizer, seed
        self.text, self.max_entities = text, max_entities

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, keys: Sequence[Key]) -> EntityBatch:
        """Batch of the given keys, without images that cannot be read."""
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its images unfinished where their transform allows."""
        rngs = [sample_rng(self.seed, epoch, index, IMAGE_STREAM) for index, epoch in keys]
        looks = [(self.data.images.transform, rngs)]
        (images,), kept = self.data.images.views([index for index, _ in keys], looks)
        chosen = [keys[place] for place in kept]
        numbers = [list(self.data.numbers[index]) for index, _ in chosen]
        labels = [
            drawn(row, self.seed, epoch, index)
            for row, (index, epoch) in zip(numbers, chosen, strict=True)
        ]
        texts = [self.text_of(index, y) for (index, _), y in zip(chosen, labels, strict=True)]
        return {
            "images": images,
            **entity_columns(numbers, labels, self.max_entities),
            "tokens": self.tokenizer(texts),
            "texts": texts,
            "ids": torch.tensor([index for index, _ in chosen]),
            "skipped": len(keys) - len(kept),
        }

    def text_of(self, index: int, label: int) -> str:
        """What the text encoder sees of an image with a drawn entity."""
        if self.text == "alt_text":
            return self.data.alt_texts[index]
        return entity_text(self.data.table[label], self.text == "name_description")


def drawn(numbers: list[int], seed: int, epoch: int, index: int) -> int:
    """One of the entities of an image."""
    rng = sample_rng(seed, epoch, index, LABEL_STREAM)
    return numbers[int(rng.integers(len(numbers)))]


def entity_columns(
    numbers: Sequence[Sequence[int]], labels: Sequence[int], max_entities: int
) -> dict[str, Tensor]:
    """Drawn and all entities of the images of a batch.

    Raises:
        UserError: an image of more entities than `max_entities`.
    """
    most = max(map(len, numbers), default=0)
    if most > max_entities:
        raise UserError(
            f"an image has {most} entities, but data.max_entities={max_entities}: set"
            f" data.max_entities={most}"
        )
    entities = torch.full((len(numbers), max_entities), NO_ENTITY)
    for place, row in enumerate(numbers):
        entities[place, : len(row)] = torch.tensor(row)
    return {"labels": torch.tensor(labels), "entities": entities}


class EntitySamples:
    """The same of a stream of shards: `Samples` of `common.data.image_text.streaming`.

    The ``.json`` of a sample is a row of the data engine.

    Args:
        transform: of an image.
        table: entity of each number.
        tokenizer, seed, text, max_entities: see `EntityImages`.
    """

    def __init__(
        self,
        transform: TrainTransform,
        table: Sequence[EntityName],
        tokenizer: ClipTokenizer,
        *,
        seed: int,
        text: str,
        max_entities: int,
    ) -> None:
        self.transform, self.table, self.tokenizer = transform, table, tokenizer
        self.seed, self.text, self.max_entities = seed, text, max_entities
        self.number = {entity.id: i for i, entity in enumerate(table)}

    def row(self, sample: Sample, epoch: int, position: int) -> tuple[View, list[int], int, str]:
        """View, numbers of the entities, the drawn one, and its text."""
        content = json.loads(sample["json"])
        numbers = [self.number[entity["id"]] for entity in content["entities"]]
        if not numbers:
            raise ValueError("no entity")
        label = drawn(numbers, self.seed, epoch, position)
        rng = sample_rng(self.seed, epoch, position, IMAGE_STREAM)
        (view,) = read_views(sample_image(sample), [(self.transform, rng)])
        if self.text == "alt_text":
            return view, numbers, label, str(content["alt_text"])
        text = entity_text(self.table[label], self.text == "name_description")
        return view, numbers, label, text

    def batch(self, rows: list[tuple[View, list[int], int, str]]) -> dict[str, Any]:
        """Images, entities, tokens and texts of `EntityBatch`."""
        views, numbers, labels, texts = map(list, zip(*rows, strict=True))
        return {
            "images": batch_of(self.transform, views),
            **entity_columns(numbers, labels, self.max_entities),
            "tokens": self.tokenizer(texts),
            "texts": texts,
        }


def train_transform(cfg: Config) -> TrainTransform:
    """Random resized crop with flip."""
    return replace(image_text.train_transform(cfg.data), flip_prob=cfg.data.flip_prob)


def training_data(cfg: Config, data: EntitySet, tokenizer: ClipTokenizer) -> ContrastiveData:
    """Loaders of a set."""
    train = EntityImages(
        data, tokenizer, seed=cfg.seed, text=cfg.data.text, max_entities=cfg.data.max_entities
    )
    return ContrastiveData(
        train, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )


def streamed_data(
    cfg: Config, table: Sequence[EntityName], tokenizer: ClipTokenizer
) -> ContrastiveData:
    """Loaders of shards."""
    data = cfg.data
    samples = EntitySamples(
        train_transform(cfg),
        table,
        tokenizer,
        seed=cfg.seed,
        text=data.text,
        max_entities=data.max_entities,
    )
    return ContrastiveData(
        image_text.shards(data, samples, cfg.seed),
        batch_size=data.batch_size,
        seed=cfg.seed,
        num_workers=data.num_workers,
    )


def synthetic_set(cfg: Config) -> EntitySet:
    """Class-structured images; each has its class, and every second one a further entity."""
    pairs = synthetic_pairs(cfg.data.num_samples or NUM_SYNTHETIC, image_size=cfg.data.image_size)
    labels, classes = pairs.labels.tolist(), len(pairs.class_names)
    rows = [[y] if i % 2 else [y, classes + i % 4] for i, y in enumerate(labels)]
    names = [*pairs.class_names, *(f"thing {i}" for i in range(4))]
    counts = np.bincount([y for row in rows for y in row], minlength=len(names)).tolist()
    table = [EntityName(f"e{i}", n, f"what is called {n}", counts[i]) for i, n in enumerate(names)]
    images = CachedImages(pairs.images, train_transform(cfg))
    return EntitySet(images, [texts[0] for texts in pairs.texts], rows, table)


# -- files of the data engine --------------------------------------------------------------------


class EntityLines:
    """Rows of the engine's JSONL, read through memory-mapped offsets.

    Args:
        path: the file.
        table: the entities of the set.

    Raises:
        UserError: missing file; on access, a row that is none of the engine's.
    """

    def __init__(self, path: Path, table: Sequence[EntityName]) -> None:
        self.file, self.path = LineFile(path), path
        self.number = {entity.id: i for i, entity in enumerate(table)}

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> list[int]:
        """Numbers of the entities of an image."""
        try:
            numbers = [self.number[e["id"]] for e in self.row(index)["entities"]]
        except (KeyError, TypeError):
            numbers = []
        if not numbers:
            raise self._wrong(index)
        return numbers

    def row(self, index: int) -> dict[str, Any]:
        """A row as it is in the file."""
        try:
            row: dict[str, Any] = json.loads(self.file[index])
        except ValueError:
            raise self._wrong(index) from None
        return row

    def _wrong(self, index: int) -> UserError:
        return UserError(
            f"{self.path}, line {index + 1}: no image with entities of {TABLE}; write both files "
            "with make run TASK=build"
        )


class AltTexts:
    """Alt-texts of the rows."""

    def __init__(self, lines: EntityLines) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> str:
        return str(self.lines.row(index)["alt_text"])


def files_of(cfg: Config) -> tuple[Path, ...]:
    """The JSONL, or the first shard, and last the table of entities alongside it.

    The table of shards that a URL or a command gives lies in `data.root`.
    """
    data, root = cfg.data, data_root(cfg.data.root)
    name = next(names_of(str(data.shards))) if data.source == "webdataset" else str(data.files)
    if data.source == "webdataset" and not is_local(name):
        return (root / TABLE,)
    return root / name, (root / name).with_name(TABLE)


def read_entities(path: Path) -> list[EntityName]:
    """The table of a set.

    Raises:
        UserError: missing file or columns, or a count that is not a number.
    """
    rows = read_table(path, ("id", "name", "description", "count"))
    try:
        return [EntityName(r["id"], r["name"], r["description"], int(r["count"])) for r in rows]
    except ValueError as error:
        raise UserError(f"{path}: the column count contains whole numbers: {error}") from error


def file_set(cfg: Config) -> EntitySet:
    """A set of the data engine on disk."""
    path, table_path = files_of(cfg)
    for file in (path, table_path):
        require(
            file,
            what="images with entities",
            layout="<name>.jsonl and entities.tsv next to it",
            source="make run PROJECT=mofi TASK=build from your own images with alt-texts",
            size="as the images",
        )
    table = read_entities(table_path)
    lines = EntityLines(path, table)
    folder = data_root(cfg.data.root) / cfg.data.image_root if cfg.data.image_root else path.parent
    images = ImageFiles(
        lambda i: folder / str(lines.row(i)["image"]),
        len(lines),
        train_transform(cfg),
        max_corrupt=cfg.data.max_corrupt,
    )
    return EntitySet(images, AltTexts(lines), lines, table)  # type: ignore[arg-type]
