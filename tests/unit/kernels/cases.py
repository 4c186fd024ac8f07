"""Specs and inputs shared by the kernel tests."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.blocked import tiling
from common.kernels.specs.weights import (
    All,
    Bias,
    Block,
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Labels,
    LowRank,
    OnlyPositive,
    Spec,
    Threshold,
    Uniform,
    Valid,
    nt_xent_spec,
)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 x 24 pairs, so that small problems have many, none a divisor of the sizes."""
    monkeypatch.setattr(tiling, "SINGLE", 0)
    monkeypatch.setattr(tiling, "ROWS", 16)
    monkeypatch.setattr(tiling, "COLS", 24)
    monkeypatch.setattr(tiling, "STRIP", 1)
    monkeypatch.setattr(tiling, "MIN_ROWS", 13)


def unit(num: int, dim: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num, dim, generator=generator, dtype=torch.float64)).to(dtype)


def labels(num: int, classes: int = 7, seed: int = 3) -> Tensor:
    return torch.randint(classes, (num,), generator=torch.Generator().manual_seed(seed))


def spec_cases(n: int, m: int) -> dict[str, Spec]:
    """One spec for every kind of side data, and compositions, for n queries and m keys."""
    u, v = unit(n, 3, seed=11), unit(m, 3, seed=12)
    lab_q, lab_k = labels(n), labels(m, seed=4)
    pos = torch.randint(-1, m, (n,), generator=torch.Generator().manual_seed(5))
    valid_k = torch.arange(m) % 5 != 0
    few = torch.where(torch.arange(n) % 3 == 0, 99, lab_q)  # label 99 has no positive
    scores = u @ v.T
    return {
        "all": All(),
        "diagonal": Diagonal(),
        "smoothed": Diagonal(0.9) & Uniform(0.1 / m),
        "index": Index(pos),
        "block": Block(3),
        "labels": Labels(few, lab_k),
        "labels_sum": Labels(lab_q, lab_k, average=False),
        "labels_self": Labels(lab_q, lab_q if n == m else lab_k, exclude_self=True),
        "self": ExcludeSelf() & Index(pos),
        "dcl": Diagonal() & ExcludePositive() & ExcludeSelf(),
        "positives": Labels(few, lab_k) & OnlyPositive(),
        "exclude": Diagonal() & Exclude(lab_q, lab_k, second=labels(n, seed=6)),
        "exclude_all": Diagonal() & Exclude(lab_q * 0, lab_k % 2, keep_positive=False),
        "valid": Index(pos) & Valid(torch.arange(n) % 4 != 1, valid_k),
        "either": Diagonal() & (Exclude(lab_q, lab_k) | Valid(None, valid_k)),
        "affine": LowRank(u, v, "affine", 0.5, 0.5),
        "relu": LowRank(u, v, "relu", 1.0, -0.2) & ExcludeSelf(),
        "masked": LowRank(u, v, "affine", 2.0, 0.1, masked=True) & ExcludeSelf() & Diagonal(),
        "teacher": LowRank(u, v, "softmax", 5.0, row_shift=(5 * scores).logsumexp(1)),
        "guided": Diagonal() & Threshold(u, v, u[:, 0] + 0.3, v[:, 1] + 0.5),
        "guided_rows": Index(pos) & Threshold(u, v, u[:, 0] + 0.3, keep_positive=False),
        "bias": Diagonal() & Bias(u[:, 0], v[:, 0], u, v, 1.5, positive_value=-0.3),
        "dead_rows": Diagonal() & Valid(torch.arange(n) > n // 2),
    }


SELF_CASES = {
    "nt_xent": lambda n: nt_xent_spec(n // 2),
    "sup_con": lambda n: Labels(labels(n), labels(n), exclude_self=True),
    "affine": lambda n: LowRank(unit(n, 3), unit(n, 3)) & ExcludeSelf(),
    "same_document": lambda n: _same_document(n),
}


def _same_document(n: int) -> Spec:
    ids = labels(n)
    return nt_xent_spec(n // 2) & Exclude(ids, ids)
