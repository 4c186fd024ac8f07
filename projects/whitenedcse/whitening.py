"""Batch whitening: decorrelated channels of unit variance, in groups that may be shuffled.

Legend: V blocks, N rows of a block, D channels, G groups of g = D / G channels.
"""

from typing import get_args

import torch
from torch import Tensor, nn

from common.config import UserError
from common.distributed.collectives import all_gather_no_grad
from common.distributed.differentiable import all_reduce_sum
from common.encoders.batch_whitening import WhiteningMethod, whitening_matrix


class Whitening(nn.Module):
    """Whitens blocks of rows with their own statistics; in evaluation mode it does nothing.

    Per block: permute the channels, cut them into G contiguous groups, subtract the channel means,
    estimate the covariance of each group (divisor N), multiply by a whitening matrix, undo the
    permutation. There are no running statistics: the output of a row depends on its block, so the
    layer belongs to a training branch and, like dropout, leaves its input alone in evaluation mode.

    Source: Zhuo et al. 2023, "WhitenedCSE", section 3, arXiv 2305.17746 (shuffled group whitening);
    Huang et al. 2018, "Decorrelated Batch Normalization", arXiv 1804.08450 (ZCA, groups);
    Kessy et al. 2018, "Optimal Whitening and Decorrelation", arXiv 1512.00809 (the methods).

    Args:
        num_features: D.
        groups: G, divides D; 1 whitens all channels together.
        method: "zca" stays closest to the input; "pca" rotates to the principal axes, largest
            variance first; "cholesky" whitens one channel after the other.
        shuffle: draw a permutation of the channels for every block and call, on the CPU from
            torch's global generator. Without effect for G = 1.
        detach: the whitening matrix is a constant for autograd (the official code); False
            differentiates through it.
        ridge: times the largest eigenvalue of a group, added to the diagonal of groups that are
            degenerate (see `DEGENERATE`); 0 adds nothing.
        sync: statistics over the rows of all ranks, with the permutation of rank 0.

    Raises:
        ValueError: G does not divide D, unknown method, or a negative ridge.

    Distributed: local statistics, or reduces them with `sync`.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    >>> y = Whitening(2)(x)
    >>> (y.T @ y / 4).allclose(torch.eye(2))
    True
    """

    def __init__(
        self,
        num_features: int,
        groups: int = 1,
        *,
        method: WhiteningMethod = "zca",
        shuffle: bool = False,
        detach: bool = True,
        ridge: float = 1e-5,
        sync: bool = False,
    ) -> None:
        super().__init__()
        if groups < 1 or num_features % groups:
            raise ValueError(f"the number of groups must divide {num_features}, got {groups}")
        if method not in get_args(WhiteningMethod):
            raise ValueError(f"method must be one of {get_args(WhiteningMethod)}, got {method!r}")
        if ridge < 0:
            raise ValueError(f"ridge must be >= 0, got {ridge}")
        self.num_features, self.groups, self.method = num_features, groups, method
        self.shuffle, self.detach = shuffle and groups > 1, detach
        self.ridge, self.sync = ridge, sync

    def forward(self, x: Tensor, permutation: Tensor | None = None) -> Tensor:
        """Whitened rows; the input itself in evaluation mode.

        Args:
            x: (N, D), or (V, N, D) blocks that are whitened apart from each other; N > D / G,
                because centring takes one dimension away. With `sync` N counts all ranks.
            permutation: (D,) or (V, D) int64, used instead of a drawn one.

        Returns:
            The shape of `x`; float32 for half precision.

        Raises:
            ValueError: `x` of another shape.
            UserError: too few rows.
        """
        if not self.training:
            return x
        if x.ndim not in (2, 3) or x.shape[-1] != self.num_features:
            raise ValueError(
                f"expected (N, {self.num_features}) or (V, N, {self.num_features}), "
                f"got {tuple(x.shape)}"
            )
        blocks = x if x.ndim == 3 else x[None]
        if permutation is None and self.shuffle:
            permutation = self._draw(len(blocks), x.device)
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(blocks.dtype, torch.float32)
            return self._whiten(blocks.to(wide), permutation).view(x.shape)

    def extra_repr(self) -> str:
        """Options, for printing."""
        return (
            f"{self.num_features}, groups={self.groups}, method={self.method!r}, "
            f"shuffle={self.shuffle}, detach={self.detach}, ridge={self.ridge}, sync={self.sync}"
        )

    def _whiten(self, x: Tensor, permutation: Tensor | None) -> Tensor:
        num_blocks, num_rows, _ = x.shape
        if permutation is not None:
            permutation = permutation.expand(num_blocks, self.num_features)
            x = x.gather(2, permutation[:, None].expand_as(x))
        grouped = x.view(num_blocks, num_rows, self.groups, -1).transpose(1, 2)  # (V, G, N, g)
        centred, covariance = self._statistics(grouped)
        matrix = whitening_matrix(covariance, self.method, ridge=self.ridge)
        white = (centred @ matrix).transpose(1, 2).reshape(x.shape)
        if permutation is not None:
            white = white.gather(2, permutation.argsort(dim=1)[:, None].expand_as(white))
        return white

    def _statistics(self, grouped: Tensor) -> tuple[Tensor, Tensor]:
        """Centred rows (V, G, N, g) and covariance (V, G, g, g) of groups."""
        size = grouped.shape[-1]
        if not self.sync:
            self._check_rows(grouped.shape[2], size)
            centred = grouped - grouped.mean(dim=2, keepdim=True)
            source = centred.detach() if self.detach else centred
            return centred, source.mT @ source / grouped.shape[2]
        count = all_reduce_sum(grouped.new_tensor(float(grouped.shape[2])))
        self._check_rows(int(count), size)
        centred = grouped - all_reduce_sum(grouped.sum(dim=2, keepdim=True)) / count
        source = centred.detach() if self.detach else centred
        return centred, all_reduce_sum(source.mT @ source) / count

    def _check_rows(self, num_rows: int, size: int) -> None:
        if num_rows <= size:
            raise UserError(
                f"whitening groups of {size} channels needs more than {size} rows in a batch, got "
                f"{num_rows}: raise the batch size or the number of groups"
            )

    def _draw(self, num_blocks: int, device: torch.device) -> Tensor:
        """One permutation per block, (V, D)."""
        drawn = torch.stack([torch.randperm(self.num_features) for _ in range(num_blocks)])
        drawn = drawn.to(device)
        return all_gather_no_grad(drawn)[:num_blocks] if self.sync else drawn
