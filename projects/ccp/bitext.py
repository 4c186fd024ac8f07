"""Bitext retrieval: does a sentence find its translation, before and after calibration?

Legend: N pairs, D dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.lines import read_lines
from common.evaluation.matrices import as_matrix, blocks, exact_math
from projects.ccp.calibration import fit_shift, fit_shift_and_scale, rotated
from projects.ccp.rotation import AdversarialOptions, adversarial_rotation

STAGES = ("raw", "shifted", "scaled", "rotated")


@dataclass(frozen=True)
class BitextHits:
    """Whether each sentence found its translation.

    Attributes:
        forward: (N,) bool, sentences of the first language among those of the second.
        backward: (N,) bool, the other direction.
    """

    forward: Tensor
    backward: Tensor

    @property
    def accuracy(self) -> float:
        """Mean of the two directions."""
        return float(torch.cat([self.forward, self.backward]).double().mean())


def bitext_hits(x: Tensor, y: Tensor) -> BitextHits:
    """Nearest neighbours by cosine in both directions.

    Source: Artetxe & Schwenk 2019, section 4.3 (Tatoeba), arXiv 1812.10464; Hu et al. 2020, XTREME,
    arXiv 2003.11080.

    Args:
        x: (N, D) of one language.
        y: (N, D), row i translates ``x[i]``.

    Raises:
        ValueError: shapes differ.

    >>> bitext_hits(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.1]])).forward.tolist()
    [True, True]
    """
    if x.shape != y.shape:
        raise ValueError(f"bitext needs pairs of rows, got {tuple(x.shape)} and {tuple(y.shape)}")
    gold = torch.arange(len(x), device=x.device)
    return BitextHits(nearest_rows(x, y) == gold, nearest_rows(y, x) == gold)


def nearest_rows(x: Tensor, y: Tensor, chunk_size: int = 2048) -> Tensor:
    """Index of the row of `y` with the largest cosine, for each row of `x`: (N,) int64.

    Equal cosines go to the lower index.

    >>> nearest_rows(torch.eye(2), torch.eye(2).flip(0)).tolist()
    [1, 0]
    """
    x, y = F.normalize(as_matrix(x, "x"), dim=1), F.normalize(as_matrix(y, "y"), dim=1)
    with exact_math(x.device):
        return torch.cat([(x[rows] @ y.T).argmax(dim=1) for rows in blocks(len(x), chunk_size)])


def calibrated_hits(
    x: Tensor,
    y: Tensor,
    text_x: Tensor,
    text_y: Tensor,
    rotation: AdversarialOptions | None = None,
    *,
    seed: int = 0,
) -> dict[str, BitextHits]:
    """`bitext_hits` after each step of the calibration: raw, shifted, scaled, rotated if asked.

    Source: Wu et al. 2022, arXiv 2206.03281 (calibration).

    Args:
        x: (N, D) of one language.
        y: (N, D), row i translates ``x[i]``.
        text_x: (M, D) of monolingual text of the first language, none of it in `x`.
        text_y: (M', D) of the second; the two need not correspond.
        rotation: options of the unsupervised rotation of the first language; None: no rotation.
        seed: of the rotation.

    Returns:
        Stage -> hits.
    """
    hits = {"raw": bitext_hits(x, y)}
    shifts = fit_shift(text_x), fit_shift(text_y)
    hits["shifted"] = bitext_hits(shifts[0](x), shifts[1](y))
    first, second = fit_shift_and_scale(text_x), fit_shift_and_scale(text_y)
    hits["scaled"] = bitext_hits(first(x), second(y))
    if rotation is not None:
        turn = adversarial_rotation(first(text_x), second(text_y), rotation, seed=seed)
        hits["rotated"] = bitext_hits(rotated(first, turn.cpu())(x), second(y))
    return hits


def read_bitext(prefix: Path) -> tuple[list[str], list[str]]:
    """Sentence pairs in the layout of Tatoeba as LASER and XTREME have it.

    Args:
        prefix: folder and pair, such as ``tatoeba/deu-eng``: the files are
            ``tatoeba/tatoeba.deu-eng.deu`` and ``.eng``, one sentence per line.

    Raises:
        UserError: a missing file, or files of unequal length.
    """
    pair = prefix.name
    first, dash, second = pair.partition("-")
    if not dash:
        raise UserError(f"bitext '{prefix}' names no pair: expected <folder>/<language>-<language>")
    stem = prefix.parent / f"tatoeba.{pair}"
    sides = [read_lines(Path(f"{stem}.{language}")) for language in (first, second)]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise UserError(f"{stem}.*: the two files need equally many lines, at least one")
    return sides[0], sides[1]


def mean_by_group(
    accuracies: Mapping[str, float], english: Sequence[str] = ("en", "eng")
) -> dict[str, float]:
    """Means over pairs: all, those with English and those without.

    Args:
        accuracies: by pair ``<language>-<language>``.
        english: codes of English.

    >>> mean_by_group({"de-en": 1.0, "de-fr": 0.5})
    {'average': 0.75, 'english': 1.0, 'other': 0.5}
    """
    groups: dict[str, list[float]] = {"average": [], "english": [], "other": []}
    for pair, value in accuracies.items():
        groups["average"].append(value)
        groups["english" if set(pair.split("-")) & set(english) else "other"].append(value)
    return {name: sum(members) / len(members) for name, members in groups.items() if members}
