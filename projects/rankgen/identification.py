"""Suffix identification: is the true continuation scored above false ones? Readers of its sets.

Source: Sun et al. 2022, "ChapterBreak", arXiv 2204.10878; Krishna et al. 2022, section 4.1, arXiv
2205.09726 (pairwise and "all" accuracy); HellaSwag: Zellers et al. 2019, arXiv 1905.07830;
StoryCloze: Mostafazadeh et al. 2016, arXiv 1604.01696.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.config import UserError
from common.data.tables import Row, read_csv, read_jsonl

_STORY = ("InputSentence1", "InputSentence2", "InputSentence3", "InputSentence4")


@dataclass(frozen=True)
class Identification:
    """One question: a prefix, its true continuation and false ones."""

    prefix: str
    gold: str
    negatives: list[str]


def identification_metrics(gold: Tensor, negatives: Tensor) -> dict[str, float]:
    """Accuracy against each false continuation and against all of them.

    Args:
        gold: (N,) scores of the true continuations.
        negatives: (N, K) scores of the false ones.

    Returns:
        ``pairwise`` (mean over all pairs, a tie is half a pair) and ``all`` (ties are wrong), each
        with its chance.

    Raises:
        ValueError: shapes that do not fit.

    >>> import torch
    >>> identification_metrics(torch.tensor([2.0]), torch.tensor([[1.0, 3.0]]))["pairwise"]
    0.5
    """
    wins = beaten(gold, negatives)
    return {
        "pairwise": float(wins.mean()),
        "pairwise_chance": 0.5,
        "all": float(wins.eq(1).all(1).double().mean()),
        "all_chance": 1 / (1 + negatives.shape[1]),
    }


def beaten(gold: Tensor, negatives: Tensor) -> Tensor:
    """(N, K) float64: 1 where the true continuation scores above the false one, 0.5 at ties."""
    if gold.ndim != 1 or negatives.ndim != 2 or len(gold) != len(negatives):
        raise ValueError(
            f"need (N,) and (N, K), got {tuple(gold.shape)} and {tuple(negatives.shape)}"
        )
    right = gold[:, None]
    return (right > negatives).double() + 0.5 * (right == negatives).double()


def load_identification(path: Path) -> list[Identification]:
    """Read questions with one common number of false continuations.

    Formats: JSONL of the RankGen release (``prefix``, ``suffix`` or ``targets``, ``negatives``);
    HellaSwag's JSONL (``ctx``, ``endings``, ``label``); StoryCloze's CSV (``InputSentence1`` to 4,
    two ``RandomFifthSentenceQuiz``, ``AnswerRightEnding``).

    Raises:
        UserError: missing file or fields, or questions with other numbers of answers.
    """
    rows = read_csv(path) if path.name.endswith((".csv", ".tsv")) else read_jsonl(path)
    try:
        questions = [_checked(_question(row)) for row in rows]
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path}: a row has neither prefix, suffix and negatives, nor HellaSwag's or "
            f"StoryCloze's fields ({error!r})"
        ) from error
    sizes = {len(question.negatives) for question in questions}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(f"{path}: need one common number of negatives, found {sorted(sizes)}")
    return questions


def _checked(question: Identification) -> Identification:
    for text in (question.prefix, question.gold, *question.negatives):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is not a text")
    return question


def _question(row: Row) -> Identification:
    if "endings" in row:
        endings = list(row["endings"])
        return Identification(row["ctx"], endings.pop(int(row["label"])), endings)
    if "AnswerRightEnding" in row:
        endings = [row["RandomFifthSentenceQuiz1"], row["RandomFifthSentenceQuiz2"]]
        gold = endings.pop(int(row["AnswerRightEnding"]) - 1)
        return Identification(" ".join(row[name] for name in _STORY), gold, endings)
    gold = row["suffix"] if "suffix" in row else row["targets"][0]
    return Identification(row["prefix"], gold, list(row["negatives"]))
