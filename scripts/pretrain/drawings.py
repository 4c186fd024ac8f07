"""What the small dual encoder is trained on and judged by: drawings with words, and photographs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image.sources import CachedImages, ImageTransform
from common.data.image_text.captions import CaptionFiles
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.data.samplers import Key, sample_rng
from common.data.tables import read_jsonl
from common.data.text.tokenizers import BpeTokenizer
from common.families.image_text.config import ORIGINAL, ImageTextData
from common.families.image_text.drawings import POOL, pool_images
from common.families.image_text.photographs import CLASSES, TEMPLATES
from projects.rtd.variants import family_of, family_split

SOURCES = [ORIGINAL, "phrasing1", "phrasing2", "phrasing3", "phrasing4"]
ORDER_STREAM, VIEW_STREAM, WORD_STREAM = 71, 72, 73


@dataclass
class Captioned:
    """Pictures as (N, 3, H, W) uint8 with a name each, and further texts."""

    images: Tensor
    names: list[str]
    phrasings: list[list[str]]  # without the name; may be empty


def variant_families(names: Sequence[str]) -> set[str]:
    """Families with more than one name."""
    sizes = Counter(family_of(name) for name in set(names))
    return {family for family, size in sizes.items() if size > 1}


def tones(root: str | None) -> list[tuple[int, str, str]]:
    """Row, emoji without tone and name of every drawing with one skin tone."""
    rows = read_jsonl(bundled("emoji-tones/captions.jsonl.gz", root), ("base", "en"))
    return [(i, row["base"], row["en"]) for i, row in enumerate(rows)]


def training_drawings(root: str | None, size: int) -> Captioned:
    """Drawings of the pool's training side and their variants by skin tone.

    Families whose attribute queries an evaluation asks are left out as a whole, and so are
    variants of drawings that the pool holds back.

    Args:
        root: ``cfg.data.root``.
        size: height and width of the stored pictures in pixels.
    """
    folder = bundled(POOL, root)
    files = CaptionFiles(
        folder / "train.csv", [folder / f"train_{s}.txt" for s in SOURCES[1:]], root=""
    )
    emoji = list(read_jsonl(bundled("emoji-captions/captions.jsonl.gz", root), ("base", "en")))
    texts = [files.texts(i) for i in range(len(files))]
    toned = tones(root)
    families = variant_families([row["en"] for row in emoji] + [name for *_, name in toned])

    def held_out(name: str) -> bool:
        return family_of(name) in families and family_split(name) == "test"

    kept = [i for i, (name, *_) in enumerate(texts) if not held_out(name)]
    paths = [str(files.path(i)) for i in kept]
    known = {emoji[int(Path(p).stem)]["base"] for p in paths if p.startswith("emoji-captions/")}
    rows = [(i, name) for i, base, name in toned if base in known and not held_out(name)]
    packed = PackedImages(bundled("emoji-tones/images.npz", root), max_corrupt=0.0)
    variants = packed.decode(size, np.array([i for i, _ in rows])).images
    pool = pool_images(paths, ImageTextData(source="pool", root=root, cache_size=size))
    return Captioned(
        torch.cat([pool, variants]),
        [texts[i][0] for i in kept] + [name for _, name in rows],
        [texts[i][1:] for i in kept] + [[] for _ in rows],
    )


class CaptionBatches(Dataset[dict[str, Tensor]]):
    """Whole batches: drawings without replacement within an epoch, photographs with it.

    Args:
        drawings: with names and phrasings.
        photos: (M, 3, H, W) uint8 and labels; empty: drawings alone.
        labels: (M,) int64.
        transform: of a training image.
        tokenizer: texts -> ids.
        counts: drawings and photographs of a batch.
        name_share: probability that a drawing comes with its name.
        seed: the experiment's seed.
    """

    def __init__(
        self,
        drawings: Captioned,
        photos: Tensor,
        labels: Tensor,
        transform: ImageTransform,
        tokenizer: BpeTokenizer,
        *,
        counts: tuple[int, int],
        name_share: float,
        seed: int,
    ) -> None:
        self.drawings, self.labels, self.tokenizer = drawings, labels, tokenizer
        self.images = CachedImages(torch.cat([drawings.images, photos]), transform)
        numbers = {name: i for i, name in enumerate(sorted(set(drawings.names)))}
        self.ids = torch.tensor([numbers[name] for name in drawings.names])
        self.ids = torch.cat([self.ids, len(numbers) + labels])  # equal ids are no negatives
        self.counts, self.name_share, self.seed = counts, name_share, seed

    def __len__(self) -> int:
        return len(self.drawings.names) // self.counts[0]

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """The batch of the one key ``(index, epoch)``."""
        ((index, epoch),) = keys
        size, photos = self.counts
        order = sample_rng(self.seed, epoch, 0, ORDER_STREAM).permutation(len(self.drawings.names))
        rng = sample_rng(self.seed, epoch, index, WORD_STREAM)
        rows = [int(i) for i in order[index * size : (index + 1) * size]]
        texts = [self._text(row, rng) for row in rows]
        for i in rng.integers(len(self.labels), size=photos) if photos else ():
            rows.append(len(self.drawings.names) + int(i))
            texts.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(CLASSES[self.labels[i]]))
        first = index * (size + photos)  # of this batch within its epoch
        rngs = [sample_rng(self.seed, epoch, first + i, VIEW_STREAM) for i in range(len(rows))]
        images, _ = self.images.load(rows, rngs)
        return {"images": images, "tokens": self.tokenizer(texts), "ids": self.ids[rows]}

    def _text(self, row: int, rng: np.random.Generator) -> str:
        phrasings = self.drawings.phrasings[row]
        if not phrasings or rng.random() < self.name_share:
            return self.drawings.names[row]
        return phrasings[rng.integers(len(phrasings))]


def vocabulary_texts(root: str | None, drawings: Captioned) -> list[str]:
    """What the tokenizer is trained on: captions and the glosses of WordNet."""
    synsets = read_jsonl(bundled("wordnet/synsets.jsonl.gz", root), ("lemmas", "definition"))
    glosses = [f"{', '.join(row['lemmas'])}: {row['definition']}" for row in synsets]
    captions = [text for texts in drawings.phrasings for text in texts]
    photos = [t.format(name) for t in TEMPLATES for name in CLASSES]
    return [*drawings.names * 4, *captions, *photos * 50, *glosses]
