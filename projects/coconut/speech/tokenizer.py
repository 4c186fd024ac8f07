"""Tokens of transcripts with their intents."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from common.config import UserError
from common.data.speech.transcripts import SpokenTarget
from projects.coconut.speech.special_tokens import EOS, FILL, PAD, SEP, SOS, SPECIAL, UNK


class TranscriptTokenizer:
    """Words or byte-pair pieces (library tokenizers) with separators for intent and slots.

    Ids: 0 padding, 1 unknown, 2 start, 3 end, 4 separator, 5 slot filler, then the vocabulary.

    Args:
        serialized: JSON text of the library's tokenizer, see `train` and `to_json`.

    Raises:
        UserError: not such a text.
    """

    def __init__(self, serialized: str) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_str(serialized)
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"not a tokenizer: {error}") from error
        if [self.tokenizer.token_to_id(token) for token in SPECIAL] != list(range(len(SPECIAL))):
            raise UserError(f"a transcript tokenizer has {', '.join(SPECIAL)} as its first ids")

    @classmethod
    def train(
        cls, texts: Iterable[str], kind: Literal["word", "bpe"], vocab_size: int = 1000
    ) -> "TranscriptTokenizer":
        """Learn the vocabulary; equal texts give an equal tokenizer.

        Args:
            texts: intents, slot types and transcripts.
            kind: whole words, or byte-pair pieces (Sennrich et al. 2016, arXiv 1508.07909).
            vocab_size: largest number of ids, the six special ones included.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        if kind == "word":
            words = sorted({word for text in texts for word in text.split()})
            if len(words) + len(SPECIAL) > vocab_size:
                raise UserError(f"{len(words)} words do not fit into vocab_size={vocab_size}")
            vocabulary = {token: i for i, token in enumerate((*SPECIAL, *words))}
            tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[UNK]))
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            return cls(tokenizer.to_str())
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False
        )
        tokenizer.train_from_iterator(sorted(texts), trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def to_json(self) -> str:
        """What the constructor takes."""
        return str(self.tokenizer.to_str())

    def encode(self, text: str) -> list[int]:
        """Ids of a text without start and end."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ones are left out."""
        kept = [int(i) for i in ids if i >= len(SPECIAL)]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return re.sub(r"\s+", " ", text).strip()

    def encode_target(self, target: SpokenTarget, *, slots: bool = False) -> list[int]:
        """Ids of ``<SOS> intent _SEP [type _FILL value _SEP ...] transcript <EOS>``."""
        ids = [SOS, *self.encode(target.intent), SEP]
        for kind, value in target.slots if slots else ():
            ids += [*self.encode(kind), FILL, *self.encode(value), SEP]
        return [*ids, *self.encode(target.transcript), EOS]

    def decode_target(self, ids: Sequence[int]) -> SpokenTarget:
        """Intent, slots and transcript of generated ids; what is malformed becomes empty.

        Everything from the first end or padding id on is left out. A text without separator is an
        intent; a segment between the first and the last without filler is not a slot.
        """
        parts: list[list[int]] = [[]]
        for token in (int(i) for i in ids):
            if token in (EOS, PAD):
                break
            if token == SEP:
                parts.append([])
            elif token != SOS:
                parts[-1].append(token)
        slots = []
        for part in parts[1:-1]:
            if FILL in part:
                at = part.index(FILL)
                slots.append((self.decode(part[:at]), self.decode(part[at + 1 :])))
        transcript = self.decode(parts[-1]) if len(parts) > 1 else ""
        return SpokenTarget(self.decode(parts[0]), tuple(slots), transcript)


def full_text(target: SpokenTarget, *, slots: bool = False) -> str:
    """All words of a target in order, as the word error rate of whole outputs counts them.

    >>> full_text(SpokenTarget("digit one", (), "one"))
    'digit one one'
    """
    named = [f"{kind} {value}" for kind, value in target.slots] if slots else []
    return " ".join([target.intent, *named, target.transcript]).strip()
