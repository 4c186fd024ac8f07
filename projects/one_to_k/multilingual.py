"""Images whose text exists in several languages: which of them a step sees, cleaning, JSON lines.

# B images, K texts each, L tokens
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NotRequired, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.image.sources import ImageSource, ImageTransform, View, batch_of, read_views
from common.data.image_text.captions import IMAGE_STREAM, TEXT_STREAM
from common.data.image_text.shards import Sample, sample_image
from common.data.lines import LineFile, cached_index
from common.data.samplers import Key, Rng, sample_rng

MASK_STREAM = 2
LanguagePolicy = Literal["all", "random", "pivot"]
MaskTokens = Callable[[np.ndarray, Rng], tuple[np.ndarray, np.ndarray]]  # ids (L,) -> ids, labels


class TextColumns(TypedDict):
    """K texts of each of B images."""

    tokens: Tensor  # (B, K, L) int64
    masked: NotRequired[Tensor]  # (B, K, L) int64, for masked language modelling
    labels: NotRequired[Tensor]  # (B, K, L) int64, -100 where nothing is predicted
    languages: Tensor  # (B, K) int64, positions in the list of languages


class MultilingualBatch(TextColumns):
    """Images with K texts each; rows i * K ... i * K + K - 1 of the texts belong to image i."""

    images: Tensor  # (B, 3, H, W) float32
    ids: Tensor  # (B,) int64, the image
    skipped: int  # samples that this batch left out


class Translations(Protocol):
    """Texts of a sample by language."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, str]: ...


def plain_caption(text: str, max_words: int = 40) -> str:
    """Lower-case words without punctuation, as cross-lingual X-VLM models read captions.

    The characters , . ' ! ? " ( ) * # : ; ~ - / become blanks and ``<person>`` becomes person.

    Source: Zeng et al. 2022, "CCLM", arXiv 2206.00621, released ``dataset/utils.py`` (ALBEF and
    X-VLM have other rules); the release raises an error where nothing is left, here the text is
    empty.

    Args:
        text: a caption.
        max_words: words that are kept, >= 1.

    >>> plain_caption("<person> - the (red)  car/truck; one", max_words=4)
    'person the red car'
    """
    text = text.lower().replace("<person>", "person")
    return " ".join(re.sub(r"[,.'!?\"()*#:;~/-]", " ", text).split()[:max_words])


def choose_languages(
    languages: Sequence[str], policy: LanguagePolicy, rng: Rng, num_texts: int | None = None
) -> list[str]:
    """Languages of one access to a sample.

    Args:
        languages: K of them; the first is the pivot.
        policy: ``all`` takes all, or `num_texts` drawn ones in their order; ``random`` takes one;
            ``pivot`` takes the first and one of the others.
        rng: generator of this access.
        num_texts: of ``all``, in [1, K]; None is K.
    """
    count = len(languages)
    if policy == "random":
        return [languages[int(rng.integers(count))]]
    if policy == "pivot":
        return [languages[0], languages[1 + int(rng.integers(count - 1))]]
    if num_texts is None or num_texts == count:
        return list(languages)
    return [languages[i] for i in sorted(rng.choice(count, num_texts, replace=False).tolist())]


@dataclass(frozen=True)
class TextOptions:
    """What becomes of the texts of a sample.

    Attributes:
        languages: K names; the first is the pivot of the policy ``pivot``.
        tokenizer: texts -> ids (N, L).
        policy: see `choose_languages`.
        num_texts: see `choose_languages`.
        clean: applied to every text.
        mask: makes masked ids and labels of a row of ids; None: a batch has neither.

    Raises:
        UserError: a pivot without other languages, or more texts asked for than there are
            languages.
    """

    languages: list[str]
    tokenizer: Callable[[list[str]], Tensor]
    policy: LanguagePolicy = "all"
    num_texts: int | None = None
    clean: Callable[[str], str] = plain_caption
    mask: MaskTokens | None = None

    def __post_init__(self) -> None:
        if self.policy == "pivot" and len(self.languages) < 2:
            raise UserError(f"a pivot needs a second language next to {self.languages[0]}")
        if self.num_texts is not None and not 1 <= self.num_texts <= len(self.languages):
            raise UserError(
                f"{self.num_texts} texts an image asked for, of {len(self.languages)} languages"
            )

    def choose(self, texts: Mapping[str, str], rng: Rng) -> dict[str, str]:
        """Cleaned texts by language in the order of the languages; empty where one is missing."""
        there = [x for x in self.languages if texts.get(x)]
        if not there or (self.policy != "random" and len(there) < len(self.languages)):
            return {}
        chosen = choose_languages(there, self.policy, rng, self.num_texts)
        return {language: self.clean(texts[language]) for language in chosen}

    def columns(self, chosen: Sequence[Mapping[str, str]], mask_rngs: Sequence[Rng]) -> TextColumns:
        """Tensors of the texts of a batch."""
        tokens = self.tokenizer([text for texts in chosen for text in texts.values()])
        tokens = tokens.reshape(len(chosen), -1, tokens.shape[-1])
        columns: TextColumns = {
            "tokens": tokens,
            "languages": torch.tensor([[self.languages.index(x) for x in t] for t in chosen]),
        }
        if self.mask is not None:
            pairs = [
                [self.mask(row.numpy(), rng) for row in ids]
                for ids, rng in zip(tokens, mask_rngs, strict=True)
            ]
            masked, labels = np.moveaxis(np.array(pairs), 2, 0)  # of (B, K, 2, L)
            columns["masked"], columns["labels"] = map(torch.from_numpy, (masked, labels))
        return columns


class MultilingualPairs(Dataset[MultilingualBatch]):
    """Training set; item = batch of a list of keys ``(index, epoch)``.

    A sample whose image cannot be read or that lacks a language is left out and counted.

    Args:
        images: image source with a training transform.
        texts: of the same samples.
        options: what becomes of the texts.
        seed: the experiment's seed.
        image_ids: (N,) image of each sample where several share one; None: the sample itself.
        max_corrupt: largest tolerated fraction of samples without one of the languages.

    Raises:
        UserError: sources of different length.
    """

    def __init__(
        self,
        images: ImageSource,
        texts: Translations,
        options: TextOptions,
        *,
        seed: int,
        image_ids: Sequence[int] | None = None,
        max_corrupt: float = 0.05,
    ) -> None:
        if len(images) != len(texts):
            raise UserError(f"{len(images)} images but texts for {len(texts)}")
        self.images, self.texts, self.options = images, texts, options
        self.seed, self.image_ids = seed, image_ids
        self.counter = CorruptCounter("translations", max_fraction=max_corrupt)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keys: Sequence[Key]) -> MultilingualBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rngs = [sample_rng(self.seed, epoch, index, IMAGE_STREAM) for index, epoch in keys]
        images, readable = self.images.load([index for index, _ in keys], rngs)
        texts_of_rows = [self._texts(*keys[place]) for place in readable]
        rows = [row for row, chosen in enumerate(texts_of_rows) if chosen]
        if not rows:
            raise UserError(f"no sample of a batch of {len(keys)} has a text in every language")
        kept = [keys[readable[row]] for row in rows]
        chosen = [texts_of_rows[row] for row in rows]
        columns = self.options.columns(
            chosen, [sample_rng(self.seed, epoch, index, MASK_STREAM) for index, epoch in kept]
        )
        return {
            "images": images[torch.tensor(rows)],
            **columns,
            "ids": torch.tensor([self._image(index) for index, _ in kept]),
            "skipped": len(keys) - len(rows),
        }

    def _image(self, index: int) -> int:
        return index if self.image_ids is None else self.image_ids[index]

    def _texts(self, index: int, epoch: int) -> dict[str, str]:
        texts = self.texts[index]
        chosen = self.options.choose(texts, sample_rng(self.seed, epoch, index, TEXT_STREAM))
        if chosen:
            self.counter.good()
        else:
            self.counter.bad(f"sample {index}", f"it has {sorted(texts)} only")
        return chosen


class MultilingualSamples:
    """The same of a stream of shards: `Samples` of `common.data.image_text.streaming`.

    The ``.json`` of a sample has its texts by language under ``caption``.

    Args:
        transform: of an image.
        options: of the texts.
        seed: the experiment's seed.
    """

    def __init__(self, transform: ImageTransform, options: TextOptions, *, seed: int) -> None:
        self.transform, self.options, self.seed = transform, options, seed

    def row(self, sample: Sample, epoch: int, position: int) -> tuple[View, dict[str, str], Rng]:
        """View, texts by language, and the generator of their masks."""
        image, text, mask = (
            sample_rng(self.seed, epoch, position, stream)
            for stream in (IMAGE_STREAM, TEXT_STREAM, MASK_STREAM)
        )
        texts = json.loads(sample["json"])["caption"]
        chosen = self.options.choose(texts, text)
        if not chosen:
            raise ValueError(f"it has {sorted(texts)} only")
        (view,) = read_views(sample_image(sample), [(self.transform, image)])
        return view, chosen, mask

    def batch(self, rows: list[tuple[View, dict[str, str], Rng]]) -> dict[str, Any]:
        """Images, tokens and languages of `MultilingualBatch`."""
        views, chosen, masks = map(list, zip(*rows, strict=True))
        return {"images": batch_of(self.transform, views), **self.options.columns(chosen, masks)}


class CaptionLines:
    """Files of JSON lines ``{"caption": {"en": "...", "de": "..."}, "image_path": "..."}``.

    Lines are read through memory-mapped offsets, so any order is as fast and a set of many million
    lines needs no memory. Blank lines do not count.

    Args:
        pattern: files such as ``cc3m/part_*.data``, taken in the order of their names.

    Raises:
        UserError: no such file, no line in it, or a line that is not of this form.
    """

    def __init__(self, pattern: str | Path) -> None:
        pattern = Path(pattern)
        paths = sorted(pattern.parent.glob(pattern.name))
        if not paths:
            raise UserError(
                f"no file {pattern}: expected JSON lines with caption (texts by language) and "
                "image_path, see data.files in the project's card"
            )
        self.files = [LineFile(path) for path in paths]
        self._bounds = [cached_index(path, "filled", _filled_bounds) for path in paths]
        self.starts = np.cumsum([0, *map(len, self._bounds)])
        if not len(self):
            raise UserError(f"{pattern} has no line of texts by language")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def row(self, index: int) -> dict[str, object]:
        """The JSON object of a line."""
        file, line = self._place(index)
        try:
            row = json.loads(self.files[file].span(*self._bounds[file][line]))
        except ValueError as error:
            raise UserError(f"{self._named(index)} is not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("caption"), dict):
            raise UserError(f"{self._named(index)} has no texts by language under 'caption'")
        return row

    def _place(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        return file, index - int(self.starts[file])

    def _named(self, index: int) -> str:
        file, line = self._place(index)
        number = self.files[file].line_at(int(self._bounds[file][line, 0]))
        return f"{self.files[file].path}, line {number + 1}"

    def __getitem__(self, index: int) -> dict[str, str]:
        """Texts by language."""
        texts = self.row(index)["caption"]
        assert isinstance(texts, dict)
        return texts

    def languages(self) -> list[str]:
        """Sorted languages of the first line, the default where a config names none."""
        return sorted(self[0])

    def image_path(self, index: int) -> str:
        """Path of the image as the line has it.

        Raises:
            UserError: the line has none.
        """
        path = self.row(index).get("image_path")
        if not isinstance(path, str):
            raise UserError(f"{self._named(index)} has no image_path")
        return path


def _filled_bounds(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Byte range of every line that is not blank."""
    start = 0
    for line in file:
        if line.strip():
            yield start, start + len(line)
        start += len(line)
