"""`NTXentLoss`, `DCLLoss` and `DCLWLoss` with the constructors and calls of lightly."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ...distributed.collectives import all_gather_no_grad
from ...distributed.process import default_group
from ..base import PairLoss
from ..functional.info_nce import info_nce
from ..functional.kernel import local
from ..functional.two_view import dcl, nt_xent, von_mises_fisher_weight

Weights = Callable[[Tensor, Tensor], Tensor]


class MemoryBank(nn.Module):
    """Normalised outputs of earlier batches, first in, first out; starts with random directions.

    Args:
        size: (rows, D), or rows: D is then that of the first batch.
        gather: whether rows of all processes enter the bank.

    Raises:
        ValueError: `size` is negative or not of this form.

    Distributed: gathers rows without gradient if `gather`, else local.
    """

    bank: Tensor

    def __init__(self, size: int | Sequence[int], gather: bool = False) -> None:
        super().__init__()
        shape = (size,) if isinstance(size, int) else tuple(size)
        if min(shape) < 0 or len(shape) > 2:
            raise ValueError(f"memory_bank_size must be (rows, dim), or 0 for none, got {size}")
        self.num_rows = shape[0]
        self.gather = gather
        self.start = 0
        self.register_buffer("bank", torch.empty(0), persistent=False)
        if len(shape) == 2:
            self._fill(torch.empty(0, shape[1]))

    def _fill(self, like: Tensor) -> None:
        self.bank = F.normalize(like.new_empty(self.num_rows, like.shape[1]).normal_(), dim=1)

    def negatives(self, like: Tensor) -> Tensor:
        """(rows, D) copy of the bank; later updates do not change it."""
        if not self.bank.numel():
            self._fill(like.detach())
        return self.bank.clone()

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Replace the oldest rows; rows that do not fit before the end of the bank are dropped."""
        rows = all_gather_no_grad(rows, default_group()) if self.gather else rows.detach()
        stop = min(self.start + len(rows), self.num_rows)
        self.bank[self.start : stop] = rows[: stop - self.start].to(self.bank.dtype)
        self.start = stop % self.num_rows


class NTXentLoss(PairLoss):
    """NT-Xent, or MoCo's loss with a memory bank, called as lightly calls it.

    See `functional.two_view.nt_xent` and `functional.info_nce.info_nce`.

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709; He et al. 2020, equation 1,
    arXiv 1911.05722.

    Args:
        temperature: divides the cosines.
        memory_bank_size: (rows, D) of a bank whose rows are the only negatives; 0 for none.
        gather_distributed: contrast with the rows of all processes, and store these in the bank.

    Raises:
        ValueError: a temperature of 0, an impossible bank, or `gather_distributed` where torch has
            no distributed package.

    Distributed: gathers negatives if `gather_distributed`, else local.

    Deviation: logits are float32 under autocast.

    >>> import math, torch
    >>> view = torch.eye(2)
    >>> NTXentLoss(temperature=1 / math.log(4.0))(view, view).exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(gather=gather_distributed)
        if abs(temperature) < 1e-8:
            raise ValueError(f"temperature must differ from 0, got {temperature}")
        _check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.memory_bank = MemoryBank(memory_bank_size, gather_distributed)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            out0: (B, D) raw embeddings; the bank changes only if they require gradient.
            out1: (B, D), row i is the other view of sample i.
        """
        view_0, view_1 = self.prepare(out0), self.prepare(out1)
        scale = 1 / self.temperature
        if self.memory_bank.num_rows:
            queue = self.memory_bank.negatives(view_1).to(view_0)
            if out0.requires_grad:
                self.memory_bank.update(view_1)
            kernel = local(self.kernel)
            return info_nce(view_0, view_1, scale, queue=queue, in_batch=False, **kernel).loss
        if len(view_0) == 1 and self.kernel["group"] is None:
            return 0 * (view_0 + view_1).sum()  # one sample has no negatives
        return nt_xent(view_0, view_1, scale, **self.kernel).loss


class DCLLoss(PairLoss):
    """Decoupled contrastive loss, called as lightly calls it; see `functional.two_view.dcl`.

    Source: Yeh et al. 2022, equation 6, arXiv 2110.06848.

    Args:
        temperature: divides the cosines.
        weight_fn: weights (B,) of the positive terms from the two normalised views; None is 1.
        gather_distributed: contrast with the rows of all processes.

    Raises:
        ValueError: `gather_distributed` where torch has no distributed package.

    Distributed: gathers negatives if `gather_distributed`, else local.

    Deviation: logits are float32 under autocast.

    >>> import torch
    >>> view = torch.eye(2)
    >>> DCLLoss(temperature=0.25)(view, view).round(decimals=4)  # log 2 - 4
    tensor(-3.3069)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight_fn: Weights | None = None,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(gather=gather_distributed)
        _check_gather(gather_distributed)
        self.temperature = temperature
        self.weight_fn = weight_fn
        self.gather_distributed = gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Mean over samples and over the two directions.

        Args:
            out0: (B, D) raw embeddings.
            out1: (B, D), row i is the other view of sample i.
        """
        view_0, view_1 = self.prepare(out0), self.prepare(out1)
        weight = None
        if self.weight_fn is not None:  # both directions have the same positive logits
            weight = 0.5 * (self.weight_fn(view_0, view_1) + self.weight_fn(view_1, view_0))
        return 0.5 * dcl(view_0, view_1, 1 / self.temperature, weight=weight, **self.kernel).loss


class DCLWLoss(DCLLoss):
    """Decoupled contrastive loss with von Mises-Fisher weights, called as lightly calls it.

    Source: Yeh et al. 2022, equation 7, arXiv 2110.06848.

    Args:
        temperature: divides the cosines.
        sigma: > 0, concentration of the weights, which carry no gradient.
        gather_distributed: contrast with the rows of all processes; weights stay those of the
            local batch.

    Raises:
        ValueError: as `DCLLoss`.

    Distributed: gathers negatives if `gather_distributed`, else local.

    >>> import torch
    >>> view = torch.eye(2)
    >>> DCLWLoss(temperature=0.25)(view, view).round(decimals=4)  # equal pairs weigh 1
    tensor(-3.3069)
    """

    def __init__(
        self, temperature: float = 0.1, sigma: float = 0.5, gather_distributed: bool = False
    ) -> None:
        weight_fn = partial(negative_mises_fisher_weights, sigma=sigma)
        super().__init__(temperature, weight_fn, gather_distributed)


def negative_mises_fisher_weights(out0: Tensor, out1: Tensor, sigma: float = 0.5) -> Tensor:
    """Weights (B,) of `DCLWLoss` from two normalised views, without gradient.

    Args:
        out0: (B, D).
        out1: (B, D).
        sigma: > 0, concentration.

    >>> negative_mises_fisher_weights(torch.eye(2), torch.eye(2))
    tensor([1., 1.])
    """
    return von_mises_fisher_weight((out0.detach() * out1.detach()).sum(-1), sigma)


def _check_gather(gather: bool) -> None:
    if gather and not dist.is_available():
        raise ValueError("gather_distributed=True needs a torch with torch.distributed")
