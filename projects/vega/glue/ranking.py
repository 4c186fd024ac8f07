"""WNLI as a choice among the candidates of a pronoun: rows with one premise compete.

A hypothesis of WNLI is a clause of its premise with the pronoun replaced by a candidate, so among
the hypotheses of one premise one is right.

# R rows
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.data.samplers import Key
from common.data.text.labelled.batches import ClassBatch, ClassBatches
from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.text.tuned.classifier import TextClassifier


class PremiseBatch(ClassBatch):
    """A batch of whole premises."""

    premises: Tensor  # (R,) int64, equal for the candidates of one premise


class PremiseBatches(ClassBatches):
    """Batches whose keys are premises: all candidates of each are rows.

    Args:
        data: N examples, pairs of premise and hypothesis.
        classifier: its tokenizer and lengths.
        seed: see `ClassBatches`.
    """

    def __init__(self, data: LabelledSet, classifier: TextClassifier, seed: int = 0) -> None:
        super().__init__(data, classifier, seed=seed)
        numbers = premises_of(data.texts).tolist()
        self.members: list[list[int]] = [[] for _ in range(max(numbers) + 1)]
        for row, number in enumerate(numbers):
            self.members[number].append(row)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, keys: Sequence[Key]) -> PremiseBatch:
        """All rows of the premises of the keys."""
        pairs = [(row, number) for number, _ in keys for row in self.members[number]]
        places = [row for row, _ in pairs]
        return {
            "inputs": self.pad([self.rows[row] for row in places]),
            "labels": self.labels[places],
            "ids": torch.tensor([number for number, _ in keys]),
            "premises": torch.tensor([number for _, number in pairs]),
        }


def premises_of(texts: Sequence[Texts]) -> Tensor:
    """(R,) numbers of the first texts, in the order of their first occurrence.

    >>> premises_of([("a", "x"), ("b", "y"), ("a", "z")]).tolist()
    [0, 1, 0]
    """
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(row[0], len(numbers)) for row in texts])


def ranked(logits: Tensor, premises: Tensor) -> Tensor:
    """Logits of the same classes, in which the candidates of a premise compete.

        s = l_1 - l_0,  s'_i = s_i - log sum_{j != i, same premise} exp(s_j)

    Their softmax is the candidate's share among those of its premise, which training raises for the
    right one; a premise with one candidate keeps its logits. `best_of_premise` decides.

    Source: our reading of the ranking of WNLI's candidates (Kocijan et al. 2019, arXiv 1905.06290;
    He et al. 2021, arXiv 2006.03654).

    Args:
        logits: (R, 2) of "0" and "1".
        premises: (R,).

    >>> ranked(torch.tensor([[0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 0])).softmax(1).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    return _against(logits, premises, lambda rivals: rivals.logsumexp(1))


def best_of_premise(logits: Tensor, premises: Tensor) -> Tensor:
    """Logits (R, 2) in which, of several candidates of a premise, the best one alone is of class 1.

    The margin is that to the strongest rival instead of to all of them.

    >>> best_of_premise(torch.tensor([[0.0, -1.0], [0.0, -3.0]]), torch.tensor([0, 0])).tolist()
    [[-1.0, 1.0], [1.0, -1.0]]
    """
    return _against(logits, premises, lambda rivals: rivals.amax(1))


def _against(logits: Tensor, premises: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    score = logits[:, 1] - logits[:, 0]
    rival = premises[:, None] == premises[None]
    rival = rival & ~torch.eye(len(premises), dtype=torch.bool, device=rival.device)
    alone = ~rival.any(1)
    # a row alone is its own rival here, so that no gradient is nan; its margin is its score
    rivals = torch.where(rival | torch.diag(alone), score[None], -torch.inf)
    margin = torch.where(alone, score, score - reduce(rivals))
    return torch.stack([-margin / 2, margin / 2], 1)
