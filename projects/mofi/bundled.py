"""The mini's pool: photographs with simulated alt-texts and drawings with their names, linked."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.image_text.drawings import drawings
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.families.image_text.class_captions import caption, drawn_class
from common.families.image_text.drawings import pool_images
from common.families.image_text.photographs import photographs_to_train
from projects.mofi.config import Config
from projects.mofi.extract import dictionary_extractor
from projects.mofi.knowledge import CLASS_ALIASES, Knowledge, bundled_knowledge, description_vectors
from projects.mofi.linking import Linked, table_linker
from projects.mofi.select import Row

ALT_TEXT_STREAM, DRAWINGS_STREAM = 34, 35
MAX_MENTIONS = 8


class Pool(NamedTuple):
    """Images with alt-texts before any entity is known.

    Attributes:
        images: (N, 3, S, S) uint8.
        names: N names that rows go by.
        alt_texts: N texts.
        truth: N words that only the evaluation reads: synset of the class, or noun of the drawing.
    """

    images: Tensor
    names: list[str]
    alt_texts: list[str]
    truth: list[str]


@lru_cache(1)
def knowledge_of(root: str | None) -> Knowledge:
    """WordNet, read once."""
    return bundled_knowledge(root)


@lru_cache(1)
def vectors_of(root: str | None) -> Tensor:
    """Its description vectors."""
    return description_vectors(knowledge_of(root))


@lru_cache(1)
def drawing_nouns(root: str | None) -> dict[str, str]:
    """Noun by name of the image, of all drawings."""
    return {drawing.image: drawing.noun for drawing in drawings(root)}


@lru_cache(1)
def training_drawings(root: str | None) -> list[tuple[str, str, str]]:
    """(image, name, noun) of training drawings whose noun two of them have."""
    rows = [(d.image, d.name, d.noun) for d in drawings(root) if d.split == "train" and d.noun]
    times = Counter(noun for _, _, noun in rows)
    return [row for row in rows if times[row[2]] >= 2]


def read_pool(cfg: Config) -> Pool:
    """Photographs and drawings of the seed.

    An alt-text of a photograph names its class by one of four words (`data.right_words`), another
    class (`data.wrong_words`) or none, and a place that has nothing to do with it.
    """
    data, size = cfg.data, cfg.data.cache_size
    photos = photographs_to_train(data.root, data.photos, cfg.seed, size)
    synsets = list(CLASS_ALIASES)
    texts = []
    for row, label in enumerate(photos.labels.tolist()):
        rng = sample_rng(cfg.seed, 0, row, ALT_TEXT_STREAM)
        named = drawn_class(label, len(synsets), data, rng)
        words = CLASS_ALIASES[synsets[named]]
        word = words[int(rng.integers(len(words)))] if named >= 0 else None
        texts.append(caption(f"a {word}" if word else None, rng))
    rows = training_drawings(data.root)
    rng = sample_rng(cfg.seed, 0, 0, DRAWINGS_STREAM)
    count = round(data.train_fraction * len(rows))
    drawn = [rows[i] for i in sorted(rng.permutation(len(rows))[:count].tolist())]
    images = torch.cat([photos.images, pool_images([image for image, _, _ in drawn], data)])
    return Pool(
        images,
        [*(f"photo-{i}" for i in range(len(texts))), *(image for image, _, _ in drawn)],
        [*texts, *(name for _, name, _ in drawn)],
        [*(synsets[y] for y in photos.labels.tolist()), *(noun for _, _, noun in drawn)],
    )


def linked_rows(cfg: Config, pool: Pool) -> list[Row]:
    """The engine's first two stages on the pool, in memory; CLIP scores are still 0."""
    knowledge = knowledge_of(cfg.data.root)
    extract = dictionary_extractor(knowledge, MAX_MENTIONS)
    link = table_linker(knowledge, vectors_of(cfg.data.root))
    links = link(pool.alt_texts, extract(pool.alt_texts, ()), ())
    pairs = zip(pool.names, pool.alt_texts, links, strict=True)
    return [row_of(knowledge, name, text, linked) for name, text, linked in pairs]


def row_of(knowledge: Knowledge, image: str, text: str, linked: Sequence[Linked]) -> Row:
    """A row of the engine without CLIP scores."""
    entities = []
    for index, prob in linked:
        entity = knowledge.entities[index]
        entities.append(
            {
                "id": entity.id,
                "name": entity.name,
                "description": entity.description,
                "link_prob": prob,
                "clip_score": 0.0,
            }
        )
    return {"image": image, "alt_text": text, "entities": entities}


def half_of(cfg: Config, names: Sequence[str]) -> Tensor:
    """(N,) 0 or 1: the half of each image, drawn by the seed."""
    return torch.tensor([int(stable_fraction(f"{cfg.seed} {name}") < 0.5) for name in names])


def precision(cfg: Config, rows: Sequence[Row], truth: Sequence[str]) -> tuple[float, int]:
    """Share of entities that name what the image shows, and their number.

    Args:
        cfg: the experiment's config.
        rows: of the pool.
        truth: of these rows; see `Pool`.
    """
    knowledge, right, count = knowledge_of(cfg.data.root), 0, 0
    for row, entity_id in zip(rows, truth, strict=True):
        for entity in row["entities"]:
            aliases = knowledge.entities[knowledge.position[entity["id"]]].aliases
            right += entity["id"] == entity_id or entity_id in aliases
            count += 1
    return right / max(1, count), count
