"""Caption cleaning and the two tokenizers of image-text models.

Both return zero-padded ids of a fixed length whose end-of-text token has the highest id, so a text
tower finds it as the arg-max; an over-long text is cut and still ends in end-of-text.
"""

import html
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import ftfy
import torch
from torch import Tensor

from common.config import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, SOT, EOT = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
_CACHED_TEXTS = 1 << 16  # captions whose ids are remembered per process


class TextTokenizer(Protocol):
    """What a text tower and a data set need of a tokenizer."""

    context_length: int
    vocab_size: int

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (B, context_length) int64, zero-padded."""
        ...


def clean_caption(text: str) -> str:
    """Repair broken Unicode, unescape HTML twice, collapse white space, lower-case.

    >>> clean_caption("Red   BUS &amp;amp; car ")
    'red bus & car'
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip().lower()


class ClipTokenizer:
    """CLIP's byte-pair encoding (49,408 ids); the vocabulary ships with open_clip.

    Args:
        context_length: number of ids per text, start and end included; >= 2.
    """

    vocab_size = 49408

    def __init__(self, context_length: int = 77) -> None:
        _check_context(context_length)
        self.context_length = context_length
        self._ids = _cached(_clip_ids)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (B, context_length) int64, zero-padded."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = [[49406, *self._ids(text), 49407] for text in texts]
        return _pad(rows, self.context_length)

    def __reduce__(self) -> tuple[type["ClipTokenizer"], tuple[int]]:
        return ClipTokenizer, (self.context_length,)


class BpeTokenizer:
    """Small byte-pair encoding trained on a corpus, for tiny text towers.

    `save` writes a ``tokenizer.json`` that the `tokenizers` and `transformers` libraries load; ids
    are padding 0, then the learned pieces, then start and end of text as the two highest.

    Args:
        backend: a tokenizer of the `tokenizers` library as built by `train`.
        context_length: number of ids per text, start and end included; >= 2.
    """

    def __init__(self, backend: "Tokenizer", context_length: int = 32) -> None:
        _check_context(context_length)
        self.context_length = context_length
        self.vocab_size: int = backend.get_vocab_size()
        if backend.token_to_id(PAD) != 0 or backend.token_to_id(EOT) != self.vocab_size - 1:
            raise UserError(
                f"this tokenizer cannot serve a text tower: it needs {PAD} as id 0 and {EOT} as "
                "the highest id (train one with BpeTokenizer.train)"
            )
        backend.enable_truncation(context_length)
        backend.enable_padding(pad_id=0, pad_token=PAD, length=context_length)
        self.backend = backend

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int = 2048, context_length: int = 32
    ) -> "BpeTokenizer":
        """Learn the pieces from texts; equal texts give equal ids.

        Args:
            texts: training captions (never evaluation texts).
            vocab_size: upper bound, special tokens included; > 259 (all bytes have an id).
            context_length: number of ids per text, start and end included.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

        if vocab_size < 260:
            raise ValueError(f"vocab_size must be at least 260, got {vocab_size}")
        backend = Tokenizer(models.BPE())
        words = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
        backend.pre_tokenizer, backend.decoder = words, decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            special_tokens=[PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator((clean_caption(text) for text in texts), trainer)
        backend.add_special_tokens([SOT, EOT])
        ends = [(token, backend.token_to_id(token)) for token in (SOT, EOT)]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{SOT} $A {EOT}", special_tokens=ends
        )
        return cls(backend, context_length)

    @classmethod
    def load(cls, path: str | Path, context_length: int | None = None) -> "BpeTokenizer":
        """Read a ``tokenizer.json`` (file or folder) written by `save`.

        Raises:
            UserError: missing, unreadable or of another kind.
        """
        from tokenizers import Tokenizer

        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"tokenizer file {path} does not exist")
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path} is not a tokenizer file: {error}") from error
        stored = (backend.truncation or {}).get("max_length", 32)
        return cls(backend, context_length or stored)

    def save(self, path: str | Path) -> Path:
        """Write ``tokenizer.json`` (or the given ``.json`` name); returns the file."""
        path = Path(path)
        path = path if path.suffix == ".json" else path / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(path))
        return path

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (B, context_length) int64, zero-padded."""
        texts = [texts] if isinstance(texts, str) else texts
        rows = self.backend.encode_batch([_cached_clean(text) for text in texts])
        return torch.tensor([row.ids for row in rows]).reshape(len(rows), self.context_length)

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Text of one row of ids, without special tokens."""
        return str(self.backend.decode([int(i) for i in ids])).strip()


_cached_clean = lru_cache(_CACHED_TEXTS)(clean_caption)


@lru_cache(1)
def _clip_encoder() -> Callable[[str], list[int]]:
    from open_clip.tokenizer import SimpleTokenizer

    encode: Callable[[str], list[int]] = SimpleTokenizer().encode
    return encode


def _clip_ids(text: str) -> list[int]:
    return _clip_encoder()(text)  # cleans like `clean_caption`


def _cached(encode: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    return lru_cache(_CACHED_TEXTS)(encode)


def _pad(rows: Sequence[list[int]], length: int) -> Tensor:
    """Right-pad with zeros; a longer row is cut and keeps its last id."""
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        kept = row if len(row) <= length else [*row[: length - 1], row[-1]]
        ids[i, : len(kept)] = torch.tensor(kept)
    return ids


def _check_context(context_length: int) -> None:
    if context_length < 2:
        raise ValueError(f"context_length must be at least 2, got {context_length}")
