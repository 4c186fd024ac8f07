"""Image-text batches of a clean pair and K augmented views on both sides.

# B pairs, V = 1 + K views, S pixels, L tokens
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.deferred import finished
from common.data.image.multi_view import ViewStack, views_first
from common.data.image.sources import PlannedTransform, View, ViewSource, batch_of, read_views
from common.data.image_text.captions import TextAugment, TextSource
from common.data.image_text.shards import Sample, sample_image, sample_texts
from common.data.samplers import Key, Rng, sample_rng
from common.data.text.tokenizers import TextTokenizer

_CLEAN_STREAM, _TEXT_STREAM, _VIEW_STREAM = 0, 1, 4  # independent streams of one access
Captions = Literal["single", "multi"]


class MultiViewPair(TypedDict):
    """Batch of pairs; rows of all tensors belong together."""

    images: Tensor  # (B, 3, S, S) float32, clean
    views: Tensor  # (K, B, 3, s, s) float32, augmented
    tokens: Tensor  # (B, 1 + K, L) int64, the clean text first
    texts: list[list[str]]  # what was tokenised
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


@dataclass(frozen=True)
class ViewTexts:
    """The texts of a clean pair and of its K views.

    Attributes:
        tokenizer: texts -> ids.
        num_views: K.
        captions: ``single`` draws one text per access for all views, ``multi`` one for each view.
        clean_text: changes the clean text.
        view_text: changes the text of a view.
    """

    tokenizer: TextTokenizer
    num_views: int
    captions: Captions = "single"
    clean_text: TextAugment | None = None
    view_text: TextAugment | None = None

    def draw(self, texts: Sequence[str], rng: Rng) -> list[str]:
        """The clean text, then that of each view."""
        choice = [text for text in texts if text.strip()] or [""]
        drawn = [choice[int(rng.integers(len(choice)))]]
        for _ in range(self.num_views):
            again = self.captions == "multi"
            drawn.append(choice[int(rng.integers(len(choice)))] if again else drawn[0])
        changes = [self.clean_text, *[self.view_text] * self.num_views]
        return [
            change(text, rng) if change else text
            for text, change in zip(drawn, changes, strict=True)
        ]

    def tokens(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """(B, 1 + K, L) of drawn texts."""
        flat = self.tokenizer([text for row in texts for text in row])
        return flat.reshape(len(texts), 1 + self.num_views, -1)


class MultiViewPairs(Dataset[MultiViewPair]):
    """Training set of a clean pair and K views; item = batch of a list of keys ``(index, epoch)``.

    Source: Fini et al. 2023, arXiv 2305.08675 and its official code.

    Args:
        images: source with the transform of the clean image.
        views: the same images; only its transform, a `ViewStack` of K, is used. None: K = 0.
        texts: texts of the same samples; empty ones are not drawn where there is another.
        tokenizer: texts -> ids.
        seed: the experiment's seed.
        num_views: K, that of `views`.
        captions: ``single`` draws one text per access for all views, ``multi`` one for each view.
        clean_text: changes the clean text.
        view_text: changes the text of a view.
        row_of: sample that an access reads, given (index, its generator); None: the index itself.
        length: accesses of an epoch, with `row_of`.

    Raises:
        UserError: sources of different length.
    """

    def __init__(
        self,
        images: ViewSource,
        views: ViewSource | None,
        texts: TextSource,
        tokenizer: TextTokenizer,
        *,
        seed: int,
        num_views: int,
        captions: Captions = "single",
        clean_text: TextAugment | None = None,
        view_text: TextAugment | None = None,
        row_of: Callable[[int, Rng], int] | None = None,
        length: int | None = None,
    ) -> None:
        lengths = {len(images), len(texts), len(images if views is None else views)}
        if len(lengths) > 1:
            raise UserError(f"images, views and texts must be equally many, not {sorted(lengths)}")
        if (views is None) != (num_views == 0):
            raise ValueError(f"num_views={num_views} and views={views} do not fit together")
        self.images, self.views, self.captions, self.seed = images, views, texts, seed
        self.texts = ViewTexts(tokenizer, num_views, captions, clean_text, view_text)
        self.row_of, self.length = row_of, length

    def __len__(self) -> int:
        return len(self.images) if self.length is None else self.length

    def __getitem__(self, keys: Sequence[Key]) -> MultiViewPair:
        """Batch of the given ``(index, epoch)`` keys, without samples that cannot be read."""
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its images and views unfinished where their transform allows."""
        clean, augmented = self._rngs(keys, _CLEAN_STREAM), self._rngs(keys, _VIEW_STREAM)
        rows = [i for i, _ in keys]
        if self.row_of is not None:
            pairs = zip(rows, clean, strict=True)
            rows = [self.row_of(index, rng) for index, rng in pairs]
        looks = [(self.images.transform, clean)]
        if self.views is not None:
            looks.append((self.views.transform, augmented))
        (images, *stacks), kept = self.images.views(rows, looks)
        rows, keys_left = [rows[i] for i in kept], [keys[i] for i in kept]
        size = self.images.transform.size
        views = views_first(stacks[0]) if stacks else torch.empty(0, len(rows), 3, size, size)
        texts = [self._texts(row, *key) for row, key in zip(rows, keys_left, strict=True)]
        return {
            "images": images,
            "views": views,
            "tokens": self.texts.tokens(texts),
            "texts": texts,
            "ids": torch.tensor(rows),
            "skipped": len(keys) - len(kept),
        }

    def _rngs(self, keys: Sequence[Key], stream: int) -> list[Rng]:
        return [sample_rng(self.seed, epoch, index, stream) for index, epoch in keys]

    def _texts(self, row: int, index: int, epoch: int) -> list[str]:
        rng = sample_rng(self.seed, epoch, index, _TEXT_STREAM)
        return self.texts.draw(self.captions.texts(row), rng)


class MultiViewSamples:
    """The same of a stream of shards: `Samples` of `common.data.image_text.streaming`.

    Args:
        transform: of the clean image.
        views: K transforms; None: K = 0.
        texts: of pair and views.
        seed: the experiment's seed.
        text_keys: see `sample_texts`; empty texts are not drawn where there is another.
    """

    def __init__(
        self,
        transform: PlannedTransform,
        views: ViewStack | None,
        texts: ViewTexts,
        *,
        seed: int,
        text_keys: Sequence[str] = ("txt",),
    ) -> None:
        self.transforms = [transform] if views is None else [transform, views]
        self.texts, self.seed, self.text_keys = texts, seed, text_keys

    def row(self, sample: Sample, epoch: int, position: int) -> tuple[list[View], list[str]]:
        """Views of the image, and texts."""
        rngs = [sample_rng(self.seed, epoch, position, s) for s in (_CLEAN_STREAM, _VIEW_STREAM)]
        texts = sample_texts(sample, self.text_keys, allow_empty=True)
        chosen = self.texts.draw(texts, sample_rng(self.seed, epoch, position, _TEXT_STREAM))
        looks = list(zip(self.transforms, rngs, strict=False))  # K = 0 has no views
        return read_views(sample_image(sample), looks), chosen

    def batch(self, rows: list[tuple[list[View], list[str]]]) -> dict[str, Any]:
        """Images, views, tokens and texts of `MultiViewPair`."""
        columns, texts = zip(*[views for views, _ in rows], strict=True), [t for _, t in rows]
        looks = zip(self.transforms, columns, strict=True)
        images, *stacks = [batch_of(transform, column) for transform, column in looks]
        size = self.transforms[0].size
        views = views_first(stacks[0]) if stacks else torch.empty(0, len(rows), 3, size, size)
        return {
            "images": images,
            "views": views,
            "tokens": self.texts.tokens(texts),
            "texts": texts,
        }
