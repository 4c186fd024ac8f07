"""What `bench_losses.py` compares: our losses and public implementations of the same equations.

Every contender is a function of two embedding matrices of unit rows that returns a scalar loss.
All of one case compute the same value; the benchmark checks that before it measures.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.pair import info_nce, pair_softplus, pair_stats
from common.kernels.specs.weights import Diagonal, nt_xent_spec

SCALE = 14.3  # 1 / 0.07
BIAS = -10.0
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Contender:
    """One implementation of one case.

    Attributes:
        case: "symmetric", "row-only", "nt-xent" or "siglip".
        name: as printed.
        package: distribution that must be installed, whose version is reported.
        make: builds the loss; imports the package.
        largest: biggest batch size it is run with (memory).
    """

    case: str
    name: str
    package: str
    make: Callable[[], Loss]
    largest: int = 1 << 30

    @property
    def version(self) -> str | None:
        """Installed version, or None."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def _symmetric(memory_budget: Callable[[int], int | None]) -> Callable[[], Loss]:
    def loss(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(q, k, SCALE, memory_budget=memory_budget(len(q)))

    return lambda: loss


def _rows() -> Loss:
    return lambda q, k: info_nce(q, k, SCALE, symmetric=False)


def _nt_xent() -> Loss:
    def loss(q: Tensor, k: Tensor) -> Tensor:
        z = torch.cat([q, k])
        stats = pair_stats(z, z, SCALE, nt_xent_spec(len(q)))
        return (stats.row_lse - stats.row_lin).mean()

    return loss


def _siglip() -> Loss:
    def loss(q: Tensor, k: Tensor) -> Tensor:
        return pair_softplus(q, k, SCALE, Diagonal(), bias=BIAS, reduction="mean")

    return loss


def dense_symmetric(q: Tensor, k: Tensor) -> Tensor:
    """One similarity matrix, log-sum-exp in both directions."""
    logits = SCALE * q @ k.T
    both = logits.logsumexp(0).mean() + logits.logsumexp(1).mean()
    return 0.5 * both - logits.diagonal().mean()


def dense_nt_xent(q: Tensor, k: Tensor) -> Tensor:
    """One (2N)^2 similarity matrix with the diagonal masked."""
    z, num = torch.cat([q, k]), len(q)
    logits = SCALE * z @ z.T
    logits.fill_diagonal_(-torch.inf)
    target = (torch.arange(2 * num) + num) % (2 * num)
    return F.cross_entropy(logits, target)


def _open_clip() -> Loss:
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda q, k: loss(q, k, torch.tensor(SCALE))


def _open_clip_siglip() -> Loss:
    from open_clip.loss import SigLipLoss

    loss = SigLipLoss()
    return lambda q, k: loss(q, k, torch.tensor(SCALE), torch.tensor(BIAS))


def _mnrl() -> Loss:
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    loss = MultipleNegativesRankingLoss(model=torch.nn.Identity(), scale=SCALE)
    return lambda q, k: loss.compute_loss_from_embeddings([q, k], None)


def _lightly() -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=1 / SCALE)


def _metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=1 / SCALE)

    def call(q: Tensor, k: Tensor) -> Tensor:
        return loss(torch.cat([q, k]), torch.arange(len(q)).repeat(2))

    return call


def contenders() -> list[Contender]:
    """All contenders, ours first in every case."""
    compiled = importlib.util.find_spec("triton") is not None  # inductor imports it
    listed = [
        Contender("symmetric", "ours, O(N) memory", "torch", _symmetric(lambda n: 0)),
        Contender("symmetric", "ours, 64 MiB (default)", "torch", _symmetric(lambda n: None)),
        Contender("symmetric", "ours, tiles kept", "torch", _symmetric(lambda n: 4 * n * n)),
        Contender("symmetric", "open_clip ClipLoss", "open_clip_torch", _open_clip, 16384),
        Contender("symmetric", "dense, one matrix", "torch", lambda: dense_symmetric, 16384),
        Contender("row-only", "ours", "torch", _rows),
        Contender("row-only", "sentence-transformers MNRL", "sentence-transformers", _mnrl, 16384),
        Contender("nt-xent", "ours", "torch", _nt_xent),
        Contender("nt-xent", "lightly NTXentLoss", "lightly", _lightly, 4096),
        Contender("nt-xent", "dense, masked", "torch", lambda: dense_nt_xent, 8192),
        Contender(
            "nt-xent", "pytorch-metric-learning", "pytorch-metric-learning", _metric_learning, 256
        ),
        Contender("siglip", "ours", "torch", _siglip),
        Contender("siglip", "open_clip SigLipLoss", "open_clip_torch", _open_clip_siglip, 16384),
    ]
    if compiled:
        make = lambda: torch.compile(dense_symmetric, dynamic=False)  # noqa: E731
        listed.insert(5, Contender("symmetric", "torch.compile(dense)", "torch", make, 16384))
    return listed
