"""Vocabularies that every process trains alike, and that travel with the weights they belong to.

A model whose ids were permuted against its tokenizer still loads, runs and scores; nothing in it
looks wrong. So the vocabulary is a part of the checkpoint, and weights are loaded into no other
one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from common.config import UserError
from common.engine.module import ContrastiveModule

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_wordpiece(
    texts: Iterable[str], size: int, max_length: int, rare: int = 100
) -> BertTokenizerFast:
    """Uncased WordPiece, the same for equal texts in every process.

    The library numbers continuation letters (``##a``) in the order of a hash map that differs from
    process to process, and breaks ties between equally frequent merges by those numbers. Given as
    special tokens, letters are numbered by code point before anything is counted; the tokenizer
    is then rebuilt from the vocabulary, in which they are ordinary pieces.

    Args:
        texts: training texts.
        size: pieces in all, letters and special tokens included.
        max_length: tokens of a sequence.
        rare: letters that occur less often become [UNK] instead of filling the vocabulary.
    """
    texts = list(texts)
    normalizer = BertWordPieceTokenizer(lowercase=True).normalizer
    counts = Counter(c for text in texts for c in normalizer.normalize_str(text) if c != " ")
    letters = sorted(c for c, count in counts.items() if count >= rare)
    numbered = [*SPECIALS, *letters, *("##" + c for c in letters)]
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        texts,
        vocab_size=size,
        special_tokens=numbered,
        show_progress=False,
        limit_alphabet=len(letters),
    )
    return wordpiece(trainer.get_vocab(), max_length)


def wordpiece(vocab: dict[str, int], max_length: int) -> BertTokenizerFast:
    """Uncased WordPiece tokenizer of a vocabulary.

    Args:
        vocab: piece -> id.
        max_length: tokens of a sequence.
    """
    own = BertWordPieceTokenizer(vocab, lowercase=True)
    return BertTokenizerFast(
        tokenizer_object=own._tokenizer, do_lower_case=True, model_max_length=max_length
    )


def pieces(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The vocabulary in the order of its ids."""
    vocab: dict[str, int] = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the vocabulary in the order of its ids."""
    return hashlib.sha256(json.dumps(pieces(tokenizer)).encode()).hexdigest()


def refuse_other(known: list[str], own: list[str], where: str) -> None:
    """Raise `UserError` unless weights found somewhere belong to this vocabulary.

    Args:
        known: pieces of those weights in the order of their ids.
        own: pieces of the tokenizer that they are to be used with.
        where: what holds them.
    """
    if known != own:
        pairs = enumerate(zip(known, own, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), "end")
        raise UserError(
            f"{where} belongs to another vocabulary ({len(known)} pieces against {len(own)}, "
            f"different from id {first} on): weights and tokenizer must come from one run"
        )


class ModuleWithVocabulary(ContrastiveModule):
    """A language model whose checkpoints hold its vocabulary.

    The vocabulary is also written to ``tokenizer/`` of the run before the first step. Loading
    weights that were trained with another one raises `UserError`.
    """

    tokenizer: PreTrainedTokenizerFast

    def on_fit_start(self) -> None:
        """Write the tokenizer, or check that it is the one that the run began with."""
        folder = Path(self.trainer.default_root_dir) / "tokenizer"
        if (folder / "tokenizer.json").exists():
            known = PreTrainedTokenizerFast.from_pretrained(folder)
            refuse_other(pieces(known), pieces(self.tokenizer), str(folder))
        elif self.trainer.is_global_zero:
            self.tokenizer.save_pretrained(folder)

    def get_extra_state(self) -> Tensor:
        """UTF-8 bytes of the vocabulary, uint8, so that a checkpoint stays plain tensors."""
        return torch.frombuffer(
            bytearray(json.dumps(pieces(self.tokenizer)).encode()), dtype=torch.uint8
        )

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights of another vocabulary."""
        refuse_other(json.loads(bytes(state.tolist())), pieces(self.tokenizer), "the checkpoint")
