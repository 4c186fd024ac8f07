"""Vectors of millions of classes: rows shared out among ranks, Adam on a step's rows only.

# C classes, S sampled ones, D dim, W ranks
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.distributed.collectives import all_gather_no_grad
from common.distributed.process import rank, world_size

Moments = Literal["full", "row"]
ROWS_AT_ONCE = 2**17  # of all ranks, on the device while the whole matrix is put together


class ClassMatrix(nn.Module):
    """Vectors w_c of C classes, whose optimiser never writes a dense gradient.

    The rows of a step are taken out as a leaf (`take`), the loss is back-propagated to them, and
    `update_` moves these rows alone, by Adam with decoupled weight decay (rows that were not taken
    keep their moments, "lazy" Adam). Weights and moments are buffers: optimiser, DDP and gradient
    clipping know nothing of them, and the state dict holds all that a run continues from.

    Between `shard_` and `whole_` rank r holds the classes c with c % W = r; the state dict is that
    of the whole matrix all the same, so a checkpoint does not depend on the number of ranks. It is
    put together in the memory of every process, part by part: no device holds the whole.

    Source: Wu et al. 2024, section 3.2 (classifier over sampled entities), arXiv 2306.07952; lazy
    Adam as `torch.optim.SparseAdam`; one second moment a row: Shazeer & Stern 2018, section 3
    (factored moments), arXiv 1804.04235.

    Args:
        num_classes: C >= 1.
        dim: D >= 1.
        std: > 0, deviation of the normal initialisation.
        betas: of Adam.
        eps: of Adam, > 0.
        weight_decay: >= 0, decoupled, on taken rows.
        moments: "full" is Adam, 2 C D numbers; "row" keeps the mean square of each row's gradient
            and no first moment, C numbers.

    Raises:
        ValueError: an option out of its range.

    Distributed: local; `shard_`, `whole_` and `state_dict` are collective while sharded.

    >>> matrix = ClassMatrix(3, 2, moments="row")
    >>> rows = matrix.take(torch.tensor([1]))
    >>> before = matrix.weight.clone()
    >>> rows.sum().backward()
    >>> matrix.update_(0.5)
    >>> (before - matrix.weight).round(decimals=4)  # Adam's first step: the rate
    tensor([[0.0000, 0.0000],
            [0.5000, 0.5000],
            [0.0000, 0.0000]])
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        std: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        moments: Moments = "full",
    ) -> None:
        super().__init__()
        if num_classes < 1 or dim < 1 or std <= 0 or eps <= 0 or weight_decay < 0:
            raise ValueError(
                "need num_classes, dim >= 1, std, eps > 0 and weight_decay >= 0, got "
                f"{num_classes}, {dim}, {std}, {eps} and {weight_decay}"
            )
        if moments not in ("full", "row"):
            raise ValueError(f"moments must be 'full' or 'row', got {moments!r}")
        self.num_classes, self.dim = num_classes, dim
        self.betas, self.eps, self.weight_decay, self.moments = betas, eps, weight_decay, moments
        self.shards, self.place = 1, 0
        self.weight: Tensor
        self.first: Tensor
        self.second: Tensor
        self.step: Tensor
        self.register_buffer("weight", torch.empty(num_classes, dim).normal_(std=std))
        width = dim if moments == "full" else 1
        self.register_buffer("second", torch.zeros(num_classes, width))
        first = dim if moments == "full" else 0
        self.register_buffer("first", torch.zeros(num_classes, first))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._taken: tuple[Tensor, Tensor] | None = None

    def resize_(self, num_classes: int) -> None:
        """Room for another number of classes; what it holds is to be loaded."""
        self.num_classes = num_classes
        for name in ("weight", "first", "second"):
            old = getattr(self, name)
            setattr(self, name, old.new_zeros(num_classes, old.shape[1]))

    @staticmethod
    def num_bytes(num_classes: int, dim: int, moments: Moments, shards: int = 1) -> int:
        """Bytes of weights and moments on the rank that holds most."""
        rows = -(-num_classes // shards)
        return 4 * rows * (3 * dim if moments == "full" else dim + 1)

    def own(self, ids: Tensor) -> Tensor:
        """Those of the given classes that this rank holds, in their order."""
        return ids if self.shards == 1 else ids[ids % self.shards == self.place]

    def take(self, ids: Tensor) -> Tensor:
        """Rows of classes of this rank.

        Args:
            ids: (S,) int64, without repetition, each held by this rank (see `own`).

        Returns:
            (S, D), a leaf; in training its gradient is what `update_` applies.
        """
        local = torch.div(ids, self.shards, rounding_mode="floor")
        rows = self.weight[local].detach()
        if self.training and torch.is_grad_enabled():
            rows.requires_grad_()
            self._taken = local, rows
        return rows

    @torch.no_grad()
    def update_(self, lr: float) -> None:
        """One step of Adam on the rows that were taken last; none if no gradient came back."""
        taken, self._taken = self._taken, None
        if taken is None or taken[1].grad is None:
            return
        rows, grad = taken[0], taken[1].grad
        # every rank back-propagates the loss of the whole batch: the sum is W times its gradient
        grad = grad.to(self.weight.dtype) / self.shards
        self.step += 1
        step, (beta1, beta2) = int(self.step), self.betas
        square = grad.square() if self.moments == "full" else grad.square().mean(1, keepdim=True)
        second = self.second[rows].mul_(beta2).add_(square, alpha=1 - beta2)
        self.second[rows] = second
        if self.moments == "full":
            first = self.first[rows].lerp_(grad, 1 - beta1)
            self.first[rows] = first
            grad = first / (1 - beta1**step)
        change = grad / ((second / (1 - beta2**step)).sqrt_() + self.eps)
        weight = self.weight[rows]
        self.weight[rows] = weight - lr * (change + self.weight_decay * weight)

    # -- several ranks -------------------------------------------------------------------------

    @torch.no_grad()
    def shard_(self) -> None:
        """Keep this rank's rows; nothing happens with one process."""
        if self.shards > 1 or world_size() == 1:
            return
        self.shards, self.place = world_size(), rank()
        for name in ("weight", "first", "second"):
            setattr(self, name, self._part(getattr(self, name)).clone())

    @torch.no_grad()
    def whole_(self) -> None:
        """Every rank holds all rows again; collective."""
        if self.shards > 1:
            whole = {
                name: self._gathered(getattr(self, name)).to(self.weight.device)
                for name in ("weight", "first", "second")
            }
            self.shards, self.place = 1, 0
            for name, value in whole.items():
                setattr(self, name, value)

    def _part(self, whole: Tensor) -> Tensor:
        return whole[self.place :: self.shards]

    def _gathered(self, part: Tensor) -> Tensor:
        """The matrix of all ranks (C, ...) on the CPU."""
        whole = part.new_empty(self.num_classes, part.shape[1], device="cpu")
        places = [whole[place :: self.shards] for place in range(self.shards)]
        step = max(1, ROWS_AT_ONCE // self.shards)
        for start in range(0, len(places[0]), step):  # the first rank holds most
            targets = [rows[start : start + step] for rows in places]
            sizes = [len(rows) for rows in targets]
            gathered = all_gather_no_grad(part[start : start + step], sizes=sizes).cpu()
            for rows, values in zip(targets, torch.split(gathered, sizes), strict=True):
                rows.copy_(values)
        return whole

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shards > 1:
            for name in ("weight", "first", "second"):
                destination[prefix + name] = self._gathered(getattr(self, name))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if self.shards > 1:
            names = [prefix + name for name in ("weight", "first", "second")]
            state_dict = {k: self._part(v) if k in names else v for k, v in state_dict.items()}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Size and optimiser, for printing."""
        return f"{self.num_classes}, {self.dim}, moments={self.moments!r}, shards={self.shards}"


def sample_classes(
    labels: Tensor,
    num_classes: int,
    size: int,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The classes of a step: all labels of the global batch, and others drawn without replacement.

    Source: Wu et al. 2024, section 3.2, arXiv 2306.07952; corrections by the expected count of a
    class: Bengio & Senecal 2008 (sampled softmax), as in TensorFlow's `sampled_softmax_loss`.

    Args:
        labels: int64 of any shape, of all ranks; negative ones are none.
        num_classes: C.
        size: classes in all; more only if there are more labels. C or more takes all classes.
        rng: of the step, in the same state on every rank.
        weights: (C,) >= 0, odds of being drawn; None draws uniformly.

    Returns:
        (S,) int64 in ascending order on the device of the labels, and with weights the (S,) log
        of the expected number of draws of each class, for a log-Q correction: zeros where all
        classes are taken, whatever their odds.

    >>> ids, _ = sample_classes(torch.tensor([4, 1]), 6, 4, np.random.default_rng(0))
    >>> len(ids), torch.isin(ids, torch.tensor([1, 4])).sum()
    (4, tensor(2))
    """
    if size >= num_classes:  # each is there with probability 1, log Q = 0: the full softmax
        ids = torch.arange(num_classes, device=labels.device)
        return ids, None if weights is None else torch.zeros(num_classes, device=labels.device)
    true = np.unique(labels[labels >= 0].cpu().numpy())
    odds = None if weights is None else weights / weights.sum()
    drawn = size if odds is None else min(size, int((odds > 0).sum()))
    drawn_classes = rng.choice(num_classes, drawn, replace=False, p=odds, shuffle=odds is None)
    others = drawn_classes[~np.isin(drawn_classes, true)][: max(0, size - len(true))]
    chosen = np.sort(np.concatenate([true, others]))
    ids = torch.from_numpy(chosen.astype(np.int64)).to(labels.device)
    if weights is None:
        return ids, None
    share = np.maximum(weights[chosen] / weights.sum(), 1e-12)
    expected = -np.expm1(drawn * np.log1p(-np.minimum(share, 1 - 1e-12)))
    return ids, torch.from_numpy(np.log(expected)).float().to(labels.device)
