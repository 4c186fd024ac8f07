"""Image-text pairs with several texts per image, one of them drawn at every access.

Source: Fan et al. 2023, Section 3.3 (arXiv 2305.20088): a sample holds its caption and M rewrites,
and each access draws one of the M + 1 texts uniformly, independently of the image augmentation.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NotRequired, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.deferred import finished
from common.data.image.sources import ImageSource, ViewSource
from common.data.lines import LineFile, cached_index
from common.data.samplers import Key, Rng, sample_rng
from common.data.text.tokenizers import TextTokenizer
from common.files import utf8

TextPolicy = Literal["random", "first", "multi"]
TextAugment = Callable[[str, Rng], str]
IMAGE_STREAM, TEXT_STREAM = 0, 1  # independent random streams of one access
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class ImageTextBatch(TypedDict):
    """Batch of image-text pairs; rows of all tensors belong together."""

    images: Tensor  # (B, 3, H, W) float32
    tokens: Tensor  # (B, L) int64; policy "multi": (B, T, L), the original first
    texts: list[Any]  # what was tokenised: list[str], policy "multi": list[list[str]]
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out
    keys: NotRequired[list[str]]  # names of the samples in a stream


class TextSource(Protocol):
    """Texts by sample."""

    def __len__(self) -> int: ...

    def texts(self, index: int) -> list[str]:
        """The M + 1 texts of a sample, the original caption first."""
        ...


class CaptionLists:
    """Texts held in memory.

    Args:
        texts: one list per sample, the original first; all of the same length >= 1.

    Raises:
        UserError: samples with different numbers of texts.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        counts = {len(row) for row in texts}
        if len(counts) > 1 or 0 in counts:
            raise UserError(
                f"every sample needs the same number of texts >= 1, got {sorted(counts)}"
            )
        self._texts = [list(row) for row in texts]

    def __len__(self) -> int:
        return len(self._texts)

    def texts(self, index: int) -> list[str]:
        """The M + 1 texts of a sample, the original caption first."""
        return self._texts[index]


class CaptionFiles:
    """Pairs in the official LaCLIP layout, read through memory-mapped offsets.

    Rows of the CSV whose path does not end in png, jpg or jpeg do not count. A rewrite file has one
    line per counted row; where it is shorter by an integer divisor, lines are taken modulo its
    length.

    Args:
        csv_path: file without header, ``relative/path.jpg,caption`` per row.
        rewrites: text files, one rewrite per line in the order of the CSV.
        root: folder that the image paths are relative to; None: the folder of the CSV.

    Raises:
        UserError: missing file, no usable row, or lengths that do not fit.
    """

    def __init__(
        self,
        csv_path: str | Path,
        rewrites: Sequence[str | Path] = (),
        root: str | Path | None = None,
    ) -> None:
        self.csv = LineFile(csv_path)
        self.root = Path(root) if root is not None else self.csv.path.parent
        self._bounds = cached_index(self.csv.path, "pairs", _pair_bounds)
        if len(self) == 0:
            raise UserError(
                f"{csv_path} has no row of the form path,caption whose path ends in "
                f"{', '.join(IMAGE_SUFFIXES)}"
            )
        self.rewrites = [LineFile(path) for path in rewrites]
        _check_lengths(self.csv.path, len(self), self.rewrites)

    def __len__(self) -> int:
        return len(self._bounds)

    def _row(self, index: int) -> list[str]:
        record = self.csv.span(*self._bounds[index])
        return next(csv.reader(line + "\n" for line in record.split("\n")))

    def path(self, index: int) -> Path:
        """Image file of a sample."""
        return self.root / self._row(index)[0]

    def texts(self, index: int) -> list[str]:
        """The M + 1 texts of a sample, the original caption first."""
        return [self._row(index)[1], *(file[index % len(file)] for file in self.rewrites)]


def choose_texts(
    texts: Sequence[str], policy: TextPolicy, rng: Rng, num_texts: int = 1
) -> list[str]:
    """Texts of one access.

    A drawn text of fewer than two words is replaced by the original.

    Args:
        texts: M + 1 texts, the original first.
        policy: ``random`` draws one uniformly, ``first`` takes the original, ``multi`` takes the
            original and num_texts - 1 different rewrites.
        rng: generator of this access.
        num_texts: texts that ``multi`` returns, in [1, M + 1].

    Returns:
        One text, or `num_texts` for ``multi``.
    """
    if policy == "first":
        return [texts[0]]
    if policy == "random":
        return [_guarded(texts[int(rng.integers(len(texts)))], texts[0])]
    if policy != "multi":
        raise ValueError(f"text policy must be random, first or multi, got {policy!r}")
    drawn = rng.permutation(len(texts) - 1)[: num_texts - 1]
    return [texts[0], *(_guarded(texts[1 + int(i)], texts[0]) for i in drawn)]


class CaptionedImages(Dataset[ImageTextBatch]):
    """Training set of image-text pairs; item = batch of a list of keys ``(index, epoch)``.

    Args:
        images: image source with a training transform.
        captions: texts of the same samples.
        tokenizer: texts -> ids.
        seed: the experiment's seed.
        text_policy: see `choose_texts`.
        num_texts: texts per image under policy ``multi``.
        augment_text: applied to every chosen text, e.g. `common.data.text.augment.Eda`.
        max_corrupt: largest tolerated fraction of samples whose text is empty, in [0, 1].

    Raises:
        UserError: sources of different length, or more texts asked for than there are.
    """

    def __init__(
        self,
        images: ImageSource,
        captions: TextSource,
        tokenizer: TextTokenizer,
        *,
        seed: int,
        text_policy: TextPolicy = "random",
        num_texts: int = 1,
        augment_text: TextAugment | None = None,
        max_corrupt: float = 0.05,
    ) -> None:
        if len(images) != len(captions):
            raise UserError(f"{len(images)} images but captions for {len(captions)}")
        available = len(captions.texts(0)) if len(captions) else 1
        check_policy(text_policy, num_texts, available)
        self.images, self.captions, self.tokenizer, self.seed = images, captions, tokenizer, seed
        self.text_policy, self.num_texts, self.augment_text = text_policy, num_texts, augment_text
        self.counter = CorruptCounter("captions", max_fraction=max_corrupt)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, keys: Sequence[Key]) -> ImageTextBatch:
        """Batch of the given ``(index, epoch)`` keys.

        Samples whose image cannot be read or whose text is empty are left out and counted.

        Raises:
            UserError: none is left, or too many were left out so far (see `CorruptCounter`).
        """
        return finished(self.deferred(keys))  # type: ignore[no-any-return]

    def deferred(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The same, its images unfinished where their transform allows."""
        chosen = [self._texts(*key) for key in keys]
        filled = [i for i, texts in enumerate(chosen) if self._is_filled(keys[i][0], texts)]
        if not filled:
            raise UserError(f"all {len(keys)} captions of a batch are empty; see the log")
        present = [keys[i] for i in filled]
        rngs = [sample_rng(self.seed, epoch, index, IMAGE_STREAM) for index, epoch in present]
        indices = [index for index, _ in present]
        images: Any
        if isinstance(self.images, ViewSource):
            (images,), read = self.images.views(indices, [(self.images.transform, rngs)])
        else:  # features in place of images
            images, read = self.images.load(indices, rngs)
        kept = [filled[position] for position in read]
        tokens, texts = tokenize([chosen[i] for i in kept], self.tokenizer, self.text_policy)
        return {
            "images": images,
            "tokens": tokens,
            "texts": texts,
            "ids": torch.tensor([keys[i][0] for i in kept]),
            "skipped": len(keys) - len(kept),
        }

    def _is_filled(self, index: int, texts: Sequence[str]) -> bool:
        """Whether no text of a sample is empty, counted."""
        if all(text.strip() for text in texts):
            self.counter.good()
            return True
        self.counter.bad(f"sample {index}", "its caption is empty")
        return False

    def _texts(self, index: int, epoch: int) -> list[str]:
        rng = sample_rng(self.seed, epoch, index, TEXT_STREAM)
        texts = choose_texts(self.captions.texts(index), self.text_policy, rng, self.num_texts)
        return [self.augment_text(text, rng) for text in texts] if self.augment_text else texts


def check_policy(policy: TextPolicy, num_texts: int, available: int) -> None:
    """Refuse a number of texts that the policy or the data cannot give.

    Raises:
        UserError: `num_texts` is outside [1, available], or not 1 without policy ``multi``.
    """
    if policy != "multi" and num_texts != 1:
        raise UserError(f"num_texts={num_texts} needs text_policy 'multi', not '{policy}'")
    if not 1 <= num_texts <= available:
        raise UserError(
            f"num_texts={num_texts}, but a sample has {available} texts (the original included)"
        )


def tokenize(
    chosen: list[list[str]], tokenizer: TextTokenizer, policy: TextPolicy
) -> tuple[Tensor, list[Any]]:
    """Tokens (B, L) and texts of a batch; (B, T, L) and lists of texts for policy ``multi``."""
    tokens = tokenizer([text for texts in chosen for text in texts])
    if policy == "multi":
        return tokens.reshape(len(chosen), -1, tokens.shape[-1]), chosen
    return tokens, [texts[0] for texts in chosen]


def _guarded(text: str, original: str) -> str:
    return text if len(text.split()) >= 2 else original


def _pair_bounds(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Byte ranges of the CSV records that name an image; quoted line breaks are allowed."""
    end = 0

    def lines() -> Iterable[str]:
        nonlocal end
        for number, raw in enumerate(file, 1):
            text, first = utf8(raw, Path(file.name), number), end == 0
            end += len(raw)
            yield text.removeprefix("\ufeff") if first else text

    start = 0
    reader = csv.reader(lines())
    try:
        for row in reader:
            if row and row[0].endswith(IMAGE_SUFFIXES):
                if len(row) < 2:
                    raise csv.Error(f"no caption after {row[0]}")
                yield start, end
            start = end
    except csv.Error as error:
        raise UserError(f"{file.name}, line {reader.line_num}: {error}") from error


def _check_lengths(csv_path: Path, rows: int, files: Sequence[LineFile]) -> None:
    lengths = {file.path.name: len(file) for file in files}
    if len(set(lengths.values())) > 1:
        raise UserError(f"rewrite files have different numbers of lines: {lengths}")
    for name, lines in lengths.items():
        if lines == 0 or rows % lines:
            raise UserError(
                f"{name} has {lines} lines for {rows} image rows of {csv_path}: one line per row "
                "is needed, or an integer divisor of it"
            )
