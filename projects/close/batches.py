"""Examples of all tasks, and the batches that are made of them."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.padding import padded
from common.data.samplers import Key, sample_rng
from common.encoders.image_text.frozen_clip import FrozenClip
from projects.close.vector_to_text import IGNORED

EPOCH_STREAM, NOISE_STREAM = 31, 32


class Example(NamedTuple):
    """One input with what may be written for it.

    Attributes:
        texts: what stands in for the image in training: a caption, several, a premise, an
            explanation.
        image: name of the image; "" without one.
        targets: texts to write.
        context: further input: a question, a hypothesis, an article.
        answers: of the annotators, for the score of VQA.
        label: class or noun that the evaluation looks for.
    """

    texts: tuple[str, ...]
    image: str
    targets: tuple[str, ...]
    context: str = ""
    answers: tuple[str, ...] = ()
    label: str = ""


class CloseBatch(TypedDict):
    """B inputs with R targets."""

    features: NotRequired[Tensor]  # (C, D) float32 of the dual encoder, not normalised
    tokens: NotRequired[Tensor]  # (C, L) in place of features: ids for its text tower
    pixels: NotRequired[Tensor]  # (C, 3, S, S) in place of features
    segments: Tensor  # (C,) int64, the input of each
    is_text: bool
    noise: Tensor  # (B, P, D) standard normal draws, P = 0 where none is needed
    context_ids: Tensor  # (B, S), S = 0 without any context
    context_mask: Tensor  # (B, S)
    labels: Tensor  # (R, T) int64, -100 at padding
    rows: Tensor  # (R,) int64, the input of every target
    ids: Tensor  # (B,)


class TextInputs:
    """Vectors of texts; no image is known here.

    Args:
        clip: the dual encoder.
        texts: all that will be asked for; with `cached` they are encoded now.
        cached: False: batches hold token ids.
        features: (N, D) of the distinct texts in their order, where they are known already.
    """

    is_text = True

    def __init__(
        self,
        clip: FrozenClip,
        texts: Iterable[str],
        *,
        cached: bool = True,
        features: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        self.clip, self.cached = clip, cached
        names = list(dict.fromkeys(texts))
        self.place = {text: i for i, text in enumerate(names)}
        self.table = (features or clip.encode_texts)(names) if cached else torch.empty(0, clip.dim)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Features or token ids, and segments."""
        texts = [text for example in examples for text in example.texts]
        segments = torch.tensor([i for i, e in enumerate(examples) for _ in e.texts])
        if self.cached:
            rows = torch.tensor([self.place[text] for text in texts])
            return {"features": self.table[rows], "segments": segments}
        return {"tokens": self.clip.tokens(texts), "segments": segments}


class ImageInputs:
    """Vectors of images.

    Args:
        clip: the dual encoder.
        names: all that will be asked for; with `cached` they are read and encoded now.
        open_image: name -> PIL image.
        cached: False: batches hold pixels.
        features: see `TextInputs`.
    """

    is_text = False

    def __init__(
        self,
        clip: FrozenClip,
        names: Iterable[str],
        open_image: Callable[[str], Any],
        *,
        cached: bool = True,
        features: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        self.clip, self.open_image, self.cached = clip, open_image, cached
        distinct = list(dict.fromkeys(names))
        self.place = {name: i for i, name in enumerate(distinct)}
        self.table = (features or self.encode)(distinct) if cached else torch.empty(0, clip.dim)

    def encode(self, names: list[str], batch_size: int = 256) -> Tensor:
        """Vectors (N, D) of images, read a batch at a time."""
        parts = [
            self.clip.encode_images([self.open_image(n) for n in names[i : i + batch_size]])
            for i in range(0, len(names), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.clip.dim)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Features or pixels, and segments."""
        segments = torch.arange(len(examples))
        if self.cached:
            rows = torch.tensor([self.place[e.image] for e in examples])
            return {"features": self.table[rows], "segments": segments}
        pixels = [self.clip.preprocess(self.open_image(e.image)) for e in examples]
        return {"pixels": torch.stack(pixels), "segments": segments}


class Words:
    """Texts as ids that end in the end of text, remembered.

    Args:
        tokenizer: of the language model, with an end and a padding token.
        most: tokens of a text, the end included.
    """

    def __init__(self, tokenizer: Any, most: int) -> None:
        self.tokenizer, self.most = tokenizer, most
        self.end, self.pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Ids of one text."""
        if text not in self._known:
            ids = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False)
            self._known[text] = [*ids["input_ids"][: self.most - 1], self.end]
        return self._known[text]

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, S) and mask of contexts; S = 0 if all are empty."""
        rows = [self(text) if text else [] for text in texts]
        if not any(rows):
            empty = torch.zeros(len(rows), 0, dtype=torch.long)
            return empty, empty
        tokens = padded(rows, self.pad)
        return tokens["input_ids"], tokens["attention_mask"]


class CloseRows(Dataset[Any]):
    """Batches of keys (index, epoch); at most `size` examples an epoch, resampled for each.

    Args:
        examples: all of them.
        inputs: vectors of texts or of images.
        context: tokens of contexts.
        target: tokens of targets.
        seed: the experiment's.
        size: examples of an epoch; None: all, in order.
        num_draws: P, normal vectors of an input.
        dim: D.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        inputs: TextInputs | ImageInputs,
        context: Words,
        target: Words,
        *,
        seed: int,
        size: int | None = None,
        num_draws: int = 0,
        dim: int = 0,
    ) -> None:
        self.examples, self.inputs, self.context, self.target = examples, inputs, context, target
        self.seed, self.num_draws, self.dim = seed, num_draws, dim
        self.size = None if size is None else min(size, len(examples))
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __len__(self) -> int:
        return len(self.examples) if self.size is None else self.size

    def _permutation(self, epoch: int) -> np.ndarray:
        return sample_rng(self.seed, epoch, 0, EPOCH_STREAM).permutation(len(self.examples))

    def row(self, index: int, epoch: int) -> int:
        """Example of an access: the epoch's shuffled list is read up to `size`."""
        return index if self.size is None else int(self._order(epoch)[index])

    def __getitem__(self, keys: Any) -> Any:
        """A batch of keys; of a single index what `collate` takes."""
        return keys if isinstance(keys, int) else self._batch(keys)

    def collate(self, indices: Sequence[int]) -> CloseBatch:
        """Batch of a validation loader."""
        return self._batch([(i, 0) for i in indices])

    def _batch(self, keys: Sequence[Key]) -> CloseBatch:
        examples = [self.examples[self.row(*key)] for key in keys]
        noise = torch.empty(len(keys), self.num_draws, self.dim)
        for i, (index, epoch) in enumerate(keys):
            if self.num_draws:  # a new draw at every access
                rng = sample_rng(self.seed, epoch, index, NOISE_STREAM)
                drawn = rng.standard_normal((self.num_draws, self.dim), dtype=np.float32)
                noise[i] = torch.from_numpy(drawn)
        targets = [(i, self.target(text)) for i, e in enumerate(examples) for text in e.targets]
        labels = padded([ids for _, ids in targets], self.target.pad)
        context_ids, context_mask = self.context.batch([e.context for e in examples])
        batch = {
            **self.inputs(examples),
            "is_text": self.inputs.is_text,
            "noise": noise,
            "context_ids": context_ids,
            "context_mask": context_mask,
            "labels": labels["input_ids"].masked_fill(labels["attention_mask"] == 0, IGNORED),
            "rows": torch.tensor([i for i, _ in targets]),
            "ids": torch.tensor([index for index, _ in keys]),
        }
        return cast(CloseBatch, batch)
