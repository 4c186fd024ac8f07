"""Whitening matrices of a covariance, with gradients."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WhiteningMethod = Literal["zca", "pca", "cholesky"]
DEGENERATE = 1e-6  # smallest eigenvalue of a group over its largest, below which the ridge is added


def whitening_matrix(
    covariance: Tensor, method: WhiteningMethod = "zca", *, ridge: float = 0.0
) -> Tensor:
    """W with ``W^T covariance W = I``, so that centred rows times W are white.

    Equations, with ``covariance = U diag(l) U^T = L L^T``: zca ``U diag(l^-1/2) U^T``; pca
    ``U diag(l^-1/2)`` with l falling and the largest entry of each column positive; cholesky
    ``L^-T``. All are differentiable; the gradient of zca stays finite where eigenvalues coincide,
    the one of pca does not exist there.

    Source: Kessy et al. 2018, section 2, arXiv 1512.00809.

    Args:
        covariance: (..., g, g), symmetric and positive definite, or nearly so with a ridge.
        method: see `Whitening`.
        ridge: see `Whitening`.

    Returns:
        (..., g, g).
    """
    if ridge:
        values = torch.linalg.eigvalsh(covariance.detach())
        largest = torch.where(values[..., -1] > 0, values[..., -1], 1.0)
        amount = torch.where(values[..., 0] < DEGENERATE * largest, ridge * largest, 0.0)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        covariance = covariance + amount[..., None, None] * eye
    if method == "zca":
        matrix: Tensor = _InverseSquareRoot.apply(covariance)  # type: ignore[no-untyped-call]
    elif method == "cholesky":
        factor = torch.linalg.cholesky(covariance)
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        matrix = torch.linalg.solve_triangular(factor.mT, eye, upper=True)
    else:
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(-1), vectors.flip(-1)
        strongest = vectors.detach().abs().argmax(dim=-2, keepdim=True)
        vectors = vectors * vectors.detach().gather(-2, strongest).sign()
        matrix = vectors * values.rsqrt()[..., None, :]
    return matrix


class _InverseSquareRoot(torch.autograd.Function):
    """Inverse square root of symmetric positive definite matrices.

    The derivative is that of a matrix function: in the eigenbasis, entry (i, j) of the change of
    the matrix is multiplied by the divided difference of l^-1/2, which needs no difference of
    eigenvalues: ``-1 / (sqrt(l_i l_j) (sqrt(l_i) + sqrt(l_j)))``. Differentiating the eigenvectors
    instead would divide by l_i - l_j.

    Source: Higham 2008, "Functions of Matrices", theorem 3.11.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        inverse_root: Tensor = (vectors * values.rsqrt()[..., None, :]) @ vectors.mT
        return inverse_root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        root = values.sqrt()
        outer = root[..., :, None] * root[..., None, :]
        kernel = -1 / (outer * (root[..., :, None] + root[..., None, :]))
        symmetric = (grad + grad.mT) / 2
        change: Tensor = vectors @ (kernel * (vectors.mT @ symmetric @ vectors)) @ vectors.mT
        return change
