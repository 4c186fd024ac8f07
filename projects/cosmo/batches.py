"""Batches of all kinds from documents and their pictures."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.image.pipelines import SeededPipeline
from common.data.image.sources import IMAGENET_MEAN, IMAGENET_STD
from common.data.padding import padded
from common.data.samplers import Key, Rng, sample_rng
from common.data.splits import stable_fraction
from projects.cosmo.config import CosmoData
from projects.cosmo.interleaved.documents import (
    END_OF_CHUNK,
    GPT,
    HUMAN,
    VISUAL,
    Document,
    plain,
    token_window,
)
from projects.cosmo.interleaved.labels import (
    caption_labels,
    clip_labels,
    document_labels,
    instruction_labels,
)
from projects.cosmo.visual_language.patch_tokens import PatchTower

log = logging.getLogger(__name__)
DOCUMENT_STREAM, WINDOW_STREAM, PIXEL_STREAM = 61, 62, 63
ONE_PICTURE = ("image_text", "video_text", "instruction")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError)


class CosmoBatch(TypedDict):
    """B texts with T places for pictures of F frames."""

    kind: str
    patches: NotRequired[
        Tensor
    ]  # (B, T, F, N, D_v) of the frozen tower; 0 where a text has fewer pictures
    pixels: NotRequired[Tensor]  # (B, T, F, 3, S, S) in place of patches
    input_ids: Tensor  # (B, L) int64, padded on the right
    attention_mask: Tensor  # (B, L)
    labels: Tensor  # (B, L), -100 where nothing is predicted
    caption_ids: Tensor  # (B,) int64, equal for equal texts
    ids: Tensor  # (B,)


class Rows(Protocol):
    """Documents of one kind."""

    def __len__(self) -> int:
        """Number of them."""

    def document(self, index: int, rng: Rng) -> tuple[Document, Callable[[int], list[Any]]]:
        """A document, and what gives the frames of one of its pictures."""


class Frames(Protocol):
    """From the frames of a picture to the tensor that a batch holds."""

    field: str

    def __call__(self, frames: Sequence[Any], rng: Rng | None) -> Tensor:
        """(F, ...)."""


class Words:
    """Texts with special tokens as ids, with their labels.

    Args:
        tokenizer: with the special tokens.
        data: lengths.
    """

    def __init__(self, tokenizer: Any, data: CosmoData) -> None:
        self.tokenizer, self.data = tokenizer, data
        names = {"visual": VISUAL, "end_of_chunk": END_OF_CHUNK, "human": HUMAN, "gpt": GPT}
        self.ids = {k: int(tokenizer.convert_tokens_to_ids(v)) for k, v in names.items()}
        self.pad, self.eos = int(tokenizer.pad_token_id), int(tokenizer.eos_token_id)
        self.bos = self.eos if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)

    def __call__(self, text: str, *, ended: bool = True) -> list[int]:
        """``<s> text </s>``, or without its end."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self.bos, *ids, *([self.eos] if ended else [])]

    def text(self, text: str) -> list[int]:
        """A text as it is embedded: as the caption of a picture that is not there."""
        return self(f"{VISUAL}{plain(text)}{END_OF_CHUNK}")[: self.data.max_caption]

    def labels(self, kind: str, ids: Tensor) -> Tensor:
        """What a batch of a kind is trained to predict, (B, L)."""
        options = {"pad": self.pad, "visual": self.ids["visual"]}
        if kind in ("image_text", "video_text"):
            return caption_labels(ids, **options)
        if kind == "interleaved_video":
            return clip_labels(ids, **options)
        options["bos"] = self.bos
        if kind == "interleaved_image":
            return document_labels(ids, **options, end_of_chunk=self.ids["end_of_chunk"])
        return instruction_labels(ids, **options, human=self.ids["human"], gpt=self.ids["gpt"])


class CachedPatches:
    """Frames are rows of a table of the tower's tokens."""

    field = "patches"

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, frames: Sequence[Any], rng: Rng | None) -> Tensor:
        """(F, N, D_v)."""
        return self.table[torch.tensor([int(frame) for frame in frames])]


class Pixels:
    """Frames are PIL images.

    Args:
        tower: gives the size, and its own normalisation.
        data: augmentation and normalisation.
    """

    field = "pixels"

    def __init__(self, tower: PatchTower, data: CosmoData) -> None:
        from torchvision.transforms import v2

        size = tower.image_size
        of_tower = data.normalise == "tower"
        mean, std = (
            (tower.encoder.image_mean, tower.encoder.image_std)
            if of_tower
            else (IMAGENET_MEAN, IMAGENET_STD)
        )
        last = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
        first = [
            v2.RandomResizedCrop(size),
            v2.RandomHorizontalFlip(),
            v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
        ]
        self.training = SeededPipeline(size, v2.Compose([*first, *last])) if data.augment else None
        self.plain = v2.Compose([v2.Resize(size), v2.CenterCrop(size), *last])

    def __call__(self, frames: Sequence[Any], rng: Rng | None) -> Tensor:
        """(F, 3, S, S); the frames of a clip are augmented one by one."""
        if self.training is not None and rng is not None:
            return torch.stack([self.training.one(frame, rng) for frame in frames])
        return torch.stack([self.plain(frame.convert("RGB")) for frame in frames])


@dataclass
class KindSource(Dataset[Any]):
    """One kind of documents as a source of batches, in training and validation.

    Attributes:
        kind: see `options.KINDS`.
        rows: documents.
        words: tokens and labels.
        frames: pictures.
        data: the config's section.
        seed: the experiment's.
    """

    kind: str
    rows: Rows
    words: Words
    frames: Frames
    data: CosmoData
    seed: int

    def __post_init__(self) -> None:
        self.counter = CorruptCounter(self.kind, max_fraction=self.data.max_corrupt)
        self.cut = 0  # texts that were longer than a sample may be

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, indices: Sequence[int]) -> CosmoBatch:
        """Batch of a validation loader: every row as in epoch 0, without augmentation."""
        return self._batch([(i, 0) for i in indices], training=False)

    def batch(self, keys: Sequence[Key]) -> CosmoBatch:
        """Batch of keys (row, epoch); samples that cannot be read are left out and counted."""
        return self._batch(keys, training=True)

    def one(self, index: int, epoch: int, training: bool) -> tuple[list[int], list[Tensor], str]:
        """Tokens, pictures (F, ...) and text of a sample."""

        def rng(stream: int) -> Rng:
            return sample_rng(self.seed, epoch, index, stream)

        document, opened = self.rows.document(index, rng(DOCUMENT_STREAM))
        ids = self.words(document.text)
        if self.kind in ONE_PICTURE:
            length = self.data.max_caption if self.kind != "instruction" else self.data.max_document
            if length < len(ids):  # cut before the end of the text, as tokenizers do
                ids = ids[:length]
                self._count_cut()
            pictures = document.pictures[:1]
        else:
            window = token_window(
                ids,
                self.words.ids["visual"],
                self.data.max_document,
                self.data.max_images,
                rng(WINDOW_STREAM),
            )
            ids = window.ids
            pictures = document.pictures[window.first : window.first + window.places]
        pixel_rng = rng(PIXEL_STREAM) if training else None
        return ids, [self.frames(opened(picture), pixel_rng) for picture in pictures], document.text

    def _count_cut(self) -> None:
        """Log the first text that is cut, the tenth, the hundredth, ..."""
        self.cut += 1
        if self.kind == "instruction" and str(self.cut).strip("0") == "1":
            log.warning(
                "%d conversations so far had more than data.max_document=%d tokens and were cut",
                self.cut,
                self.data.max_document,
            )

    def _batch(self, keys: Sequence[Key], *, training: bool) -> CosmoBatch:
        samples = []
        for index, epoch in keys:
            try:
                samples.append((index, *self.one(index, epoch, training)))
                self.counter.good()
            except _UNREADABLE as error:
                if self.data.source != "shards":  # ours: a mistake in the code
                    raise
                self.counter.bad(f"row {index}", error)
        if not samples:
            raise UserError(
                f"all {len(keys)} samples of a batch of {self.kind} are unreadable; see the log"
            )
        tokens = padded([ids for _, ids, _, _ in samples], self.words.pad)
        labels = self.words.labels(self.kind, tokens["input_ids"])
        # padding may have the id of another token; it is never predicted
        labels = labels.masked_fill(tokens["attention_mask"] == 0, -100)
        pictures = [row for _, _, row, _ in samples]
        places = 1 if self.kind in ONE_PICTURE else self.data.max_images
        shape = next((p.shape for row in pictures for p in row), None)
        if shape is None:
            raise UserError(
                "no document of a batch shows a picture within data.max_document="
                f"{self.data.max_document} tokens: raise it, or data.batch_size"
            )
        whole = torch.zeros(len(samples), places, *shape)  # fewer pictures: zeros
        for line, row in zip(whole, pictures, strict=True):
            for place, picture in enumerate(row):
                line[place] = picture
        batch = {
            "kind": self.kind,
            self.frames.field: whole,
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "labels": labels,
            "caption_ids": torch.tensor([_text_id(text) for _, _, _, text in samples]),
            "ids": torch.tensor([index for index, *_ in samples]),
        }
        return cast(CosmoBatch, batch)


def _text_id(text: str) -> int:
    """A number that equal texts share, blanks and case apart."""
    return int(stable_fraction(" ".join(text.replace(VISUAL, "").lower().split())) * 2**52)
