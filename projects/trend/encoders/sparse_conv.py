"""Sparse 3-D convolutions in plain PyTorch, with the weights and results of spconv.

A rule book lists for each of the kernel's positions which input cell feeds which output cell; the
convolution is one matrix product and one scatter per position. Nothing loops over cells.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from common.config import UserError
from projects.trend.encoders.voxels import Voxels, cell_keys, coords_of_keys

Triple = tuple[int, int, int]
Backend = Literal["auto", "torch", "spconv"]


def has_spconv() -> bool:
    """Whether the package spconv can be imported."""
    try:
        import spconv.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


def resolve_backend(backend: Backend) -> Literal["torch", "spconv"]:
    """Spconv on CUDA machines that have it, else torch.

    Raises:
        UserError: spconv was asked for and is not installed.
    """
    if backend == "auto":
        return "spconv" if torch.cuda.is_available() and has_spconv() else "torch"
    if backend == "spconv" and not has_spconv():
        raise UserError("model.backend=spconv needs the package spconv; use auto or torch")
    return backend


class SparseConv3d(nn.Module):
    """Convolution of occupied cells.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel: cells along z, y, x.
        stride: along z, y, x; ignored by a submanifold convolution.
        padding: along z, y, x.
        submanifold: outputs only where inputs are (Graham et al. 2018), padding half the kernel.
        bias: add a bias.

    Source: Graham, Engelcke & van der Maaten 2018, "3D semantic segmentation with submanifold
    sparse convolutional networks", arXiv 1711.10275. The weight is stored as in spconv 2:
    (C', kz, ky, kx, C).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple = (3, 3, 3),
        stride: Triple = (1, 1, 1),
        padding: Triple = (0, 0, 0),
        *,
        submanifold: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.submanifold = kernel, submanifold
        self.stride = (1, 1, 1) if submanifold else stride
        half = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.padding = half if submanifold else padding
        self.weight = nn.Parameter(torch.empty(out_channels, *kernel, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        fan_in = in_channels * kernel[0] * kernel[1] * kernel[2]
        nn.init.uniform_(self.weight, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, voxels: Voxels) -> Voxels:
        """Convolve; a strided one changes the cells."""
        offsets = _offsets(self.kernel, voxels.coords.device)
        rules = _same_cells if self.submanifold else self._new_cells
        inputs, outputs, kernel_index, coords, shape = rules(voxels, offsets)
        weight = self.weight.flatten(1, 3).permute(1, 2, 0)  # (K, C, C')
        out = voxels.features.new_zeros(len(coords), weight.shape[2])
        counts = torch.bincount(kernel_index, minlength=len(offsets)).tolist()
        pairs = zip(inputs.split(counts), outputs.split(counts), weight, strict=True)
        for source, target, matrix in pairs:  # over the positions of the kernel
            if len(source):
                part = voxels.features[source] @ matrix  # of half precision under autocast
                out = out.index_add(0, target, part.to(out.dtype))
        if self.bias is not None:
            out = out + self.bias
        return Voxels(out, coords, shape, voxels.batch_size)

    def _new_cells(self, voxels: Voxels, offsets: Tensor) -> tuple[Any, ...]:
        """Rules of a strided convolution: out = (in + padding - offset) / stride."""
        device = offsets.device
        stride, padding = (torch.tensor(t, device=device) for t in (self.stride, self.padding))
        spans = zip(voxels.shape, self.kernel, self.stride, self.padding, strict=True)
        d, h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in spans)
        shape = (d, h, w)
        place = voxels.coords[None, :, 1:] + padding - offsets[:, None]  # (K, M, 3)
        target = torch.div(place, stride, rounding_mode="floor")
        good = (place % stride == 0) & (target >= 0) & (target < torch.tensor(shape, device=device))
        kernel_index, source = good.all(-1).nonzero(as_tuple=True)
        cells = torch.cat([voxels.coords[source, :1], target[kernel_index, source]], dim=1)
        keys, outputs = torch.unique(cell_keys(cells, shape), return_inverse=True)
        return source, outputs, kernel_index, coords_of_keys(keys, shape), shape


def _same_cells(voxels: Voxels, offsets: Tensor) -> tuple[Any, ...]:
    """Rules of a submanifold convolution: neighbours are found by binary search."""
    size = torch.tensor(voxels.shape, device=offsets.device)
    half = offsets.amax(0).add(1).div(2, rounding_mode="floor")
    place = voxels.coords[None, :, 1:] + (offsets - half)[:, None]  # (K, M, 3)
    inside = ((place >= 0) & (place < size)).all(-1)
    owner = voxels.coords[None, :, :1].expand(len(offsets), -1, -1)
    target_keys = cell_keys(torch.cat([owner, place], dim=-1), voxels.shape)
    keys = cell_keys(voxels.coords, voxels.shape)  # increasing
    places = torch.searchsorted(keys, target_keys).clamp_max(max(len(keys) - 1, 0))
    good = inside & (keys[places] == target_keys) if len(keys) else inside
    kernel_index, target = good.nonzero(as_tuple=True)
    return places[kernel_index, target], target, kernel_index, voxels.coords, voxels.shape


def _offsets(kernel: Triple, device: torch.device) -> Tensor:
    axes = [torch.arange(n, device=device) for n in kernel]
    return torch.cartesian_prod(*axes)
