"""Word and character error rates."""

from collections.abc import Sequence

import torch

from common.data.speech.transcripts import SpokenTarget
from common.distributed.differentiable import all_reduce_sum
from projects.coconut.speech.tokenizer import full_text


def edit_distance(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions (torchaudio's implementation).

    >>> edit_distance("a c".split(), "a b c".split())
    1
    """
    from torchaudio.functional import edit_distance as distance

    return int(distance(list(hypothesis), list(reference)))


def word_edits(hypothesis: str, reference: str) -> tuple[int, int]:
    """Edits on words, and number of words of the reference.

    >>> word_edits("turn the light of", "turn the lights off")
    (2, 4)
    """
    words = reference.split()
    return edit_distance(hypothesis.split(), words), len(words)


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Word errors of a corpus over its reference words; may exceed 1.

    Args:
        hypotheses: what was recognised.
        references: what was said.

    Raises:
        ValueError: unequal numbers, or references without a word.

    >>> word_error_rate(["a b", "c"], ["a", "c d"])
    0.6666666666666666
    """
    return _rate([word_edits(h, r) for h, r in _paired(hypotheses, references)])


def character_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """As `word_error_rate` for characters, spaces included.

    >>> character_error_rate(["on"], ["one "])
    0.5
    """
    pairs = _paired(hypotheses, references)
    return _rate([(edit_distance(list(h), list(r)), len(r)) for h, r in pairs])


class IntentErrors:
    """Right intents and word edits of utterances, counted batch by batch.

    Args:
        slots: whether the outputs hold slots.
    """

    def __init__(self, *, slots: bool = False) -> None:
        self.slots = slots
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.counts = [0, 0, 0, 0]  # utterances, right intents, word edits, reference words

    def add(self, predicted: SpokenTarget, expected: SpokenTarget) -> None:
        """Count one utterance."""
        edits, words = word_edits(*(full_text(t, slots=self.slots) for t in (predicted, expected)))
        new = (1, int(predicted.intent == expected.intent), edits, words)
        self.counts = [a + b for a, b in zip(self.counts, new, strict=True)]

    def over_ranks(self, device: torch.device | str = "cpu") -> tuple[float, float]:
        """Intent accuracy and word error rate of the utterances of all ranks."""
        counts = torch.tensor(self.counts, dtype=torch.float64, device=device)
        count, right, edits, words = all_reduce_sum(counts).tolist()
        return right / max(1.0, count), edits / max(1.0, words)


def _paired(hypotheses: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    return list(zip(hypotheses, references, strict=True))


def _rate(edits: Sequence[tuple[int, int]]) -> float:
    total = sum(length for _, length in edits)
    if total == 0:
        raise ValueError("the references are empty; there is no error rate")
    return sum(distance for distance, _ in edits) / total
