"""Next-token logits as weights of words: saturation, tokens of a text, impact vectors.

# B texts, V vocabulary
"""

import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# the list of Porter and others that NLTK distributes as "english" (179 words, releases up to 2024)
_STOP_WORDS = """
i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves
he him his himself she she's her hers herself it it's its itself they them their theirs themselves
what which who whom this that that'll these those am is are was were be been being have has had
having do does did doing a an the and but if or because as until while of at by for with about
against between into through during before after above below to from up down in out on off over
under again further then once here there when where why how all any both each few more most other
some such no nor not only own same so than too very s t can will just don don't should should've now
d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't
haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't
wasn wasn't weren weren't won won't wouldn wouldn't
"""
ENGLISH_STOP_WORDS = frozenset(_STOP_WORDS.split())
LEFT_OUT = ENGLISH_STOP_WORDS | frozenset(string.punctuation)
SCALE = 100  # weights are integers in hundredths
_SPACE_MARKS = (" ", "\u2581")
_WORDS_IN_MEMORY = 1 << 18


def log1p_relu(logits: Tensor) -> Tensor:
    """``log(1 + max(0, x))``: few words can't dominate, what is unlikely has no weight.

    Source: Formal et al. 2021, "SPLADE", equation 1, arXiv 2107.05720.
    """
    return torch.log1p(torch.relu(logits))


def treebank_words(text: str) -> list[str]:
    """Words and punctuation of a text, by NLTK's tokenizer.

    Deviation: sentences are found without the trained list of abbreviations (which is a download),
    so the full stop of an abbreviation inside a text is a token of its own.

    >>> treebank_words("The fox can't jump. A dog")
    ['The', 'fox', 'ca', "n't", 'jump', '.', 'A', 'dog']
    """
    sentences, words = _tokenizers()
    return [word for part in sentences.tokenize(text) for word in words.tokenize(part)]


@lru_cache(maxsize=1)
def _tokenizers() -> tuple[Any, Any]:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer(), NLTKWordTokenizer()


class InTextTokens:
    """Which tokens of a vocabulary stand in a text.

    The text is lower-cased and split into words; stop words and punctuation are left out; each word
    that is left is encoded alone, without a space before it.

    Source: Zhuang et al. 2024, "PromptReps", section 3 and released code, arXiv 2404.18424.

    Args:
        encode: word -> ids, without special tokens.
        left_out: words that don't count, lower case.
        words: splits a text.

    >>> InTextTokens(lambda word: [len(word)], left_out={"a"}, words=str.split)("A red fox jumps")
    [3, 5]
    """

    def __init__(
        self,
        encode: Callable[[str], Sequence[int]],
        *,
        left_out: Collection[str] = LEFT_OUT,
        words: Callable[[str], list[str]] = treebank_words,
    ) -> None:
        self._encode = lru_cache(_WORDS_IN_MEMORY)(lambda word: tuple(encode(word)))
        self._left_out, self._words = left_out, words

    def __call__(self, text: str) -> list[int]:
        """Ids in ascending order, each once."""
        kept = {word for word in self._words(text.lower()) if word not in self._left_out}
        return sorted({i for word in kept for i in self._encode(word)})

    def padded(self, texts: Sequence[str]) -> Tensor:
        """Ids of B texts, (B, K) int64, filled up with -1 (K >= 1)."""
        rows = [self(text) for text in texts]
        padded = torch.full((len(rows), max(1, *map(len, rows))), -1)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        return padded


def in_text_mask(ids: Tensor, vocab_size: int) -> Tensor:
    """Ids filled up with -1, (B, K), as a mask over the vocabulary, (B, V) bool.

    >>> in_text_mask(torch.tensor([[2, 0], [1, -1]]), 3).int().tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    mask = torch.zeros(len(ids), vocab_size + 1, dtype=torch.bool, device=ids.device)
    mask.scatter_(1, ids.masked_fill(ids < 0, vocab_size), True)
    return mask[:, :vocab_size]


def expansion_ids(vocabulary: Mapping[str, int]) -> list[int]:
    """Ids that may stand for a text which lacks them: letters or digits alone, a to z first.

    A plain space or the mark of SentencePiece before a piece is passed over; the mark of byte-level
    tokenizers is none of both, so their pieces with a space before them are left out.

    Source: released code of PromptReps.

    >>> expansion_ids({"fox": 0, "\u2581dog": 1, "Zed": 2, "##": 3, "7": 4, "\u0120cat": 5})
    [0, 1]
    """
    ids = []
    for token, place in vocabulary.items():
        plain = token[1:] if token.startswith(_SPACE_MARKS) else token
        if (plain.isalpha() or plain.isdigit()) and "a" <= plain[0] <= "z":
            ids.append(place)
    return sorted(ids)


def impact_vector(
    values: Tensor,
    in_text: Sequence[int],
    *,
    most: int = 128,
    expansion: int = 0,
    allowed: Iterable[int] = (),
    fallback: int = 10,
) -> dict[int, int]:
    """Integer weights of the tokens of a text, ``round(100 v)``.

    Args:
        values: (V,) non-negative weights, see `log1p_relu`.
        in_text: ids of the text's tokens, see `InTextTokens`.
        most: tokens of the text that are kept, those with the largest weights.
        expansion: further tokens that are not in the text.
        allowed: ids that these may be, see `expansion_ids`.
        fallback: tokens of the whole vocabulary for a text without a token of its own.

    Returns:
        Id -> weight, which may be 0.

    Source: Zhuang et al. 2024, "PromptReps", section 3 and released code, arXiv 2404.18424.

    >>> impact_vector(torch.tensor([0.5, 2.0, 1.0]), [0, 2])
    {2: 100, 0: 50}
    """
    largest = (
        _largest(values, sorted(in_text), most) if in_text else _largest(values, None, fallback)
    )
    if expansion:
        others = sorted(set(allowed) - set(in_text))
        largest = {**_largest(values, others, expansion), **largest}
    return largest


def _largest(values: Tensor, ids: Sequence[int] | None, count: int) -> dict[int, int]:
    place = torch.arange(len(values)) if ids is None else torch.tensor(ids, dtype=torch.long)
    best = values.cpu()[place].topk(
        min(count, len(place))
    )  # equal weights in torch's order, as released
    weights = np.rint(SCALE * best.values.double().numpy()).astype(int)
    return dict(zip(place[best.indices].tolist(), weights.tolist(), strict=True))
