"""Linear post-processing of finished embeddings: whitening and independent components."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.batch_whitening import WhiteningMethod, whitening_matrix
from common.evaluation.matrices import as_matrix, exact_math


@dataclass(frozen=True)
class EmbeddingTransform:
    """An affine map, fitted on some embeddings, for any others: (x - mean) @ matrix.

    Attributes:
        mean: (D,) float64.
        matrix: (D, K) float64.
        converged: whether the fit reached its tolerance; always true for whitening.
    """

    mean: Tensor
    matrix: Tensor
    converged: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) -> (N, K), on the device and in the dtype of `x` (at least float32).

        Raises:
            ValueError: another dimension than that of the fit, or rows that are not finite.
        """
        x = as_matrix(x, "embeddings")
        if x.shape[1] != len(self.mean):
            raise ValueError(
                f"the transform was fitted in {len(self.mean)} dimensions, got {tuple(x.shape)}"
            )
        with exact_math(x.device):
            moved = (x.double() - self.mean.to(x.device)) @ self.matrix.to(x.device)
        return moved.to(x.dtype)


def fit_whitening(
    embeddings: Tensor,
    *,
    method: WhiteningMethod = "pca",
    dim: int | None = None,
    ridge: float = 0.0,
) -> EmbeddingTransform:
    """Map that gives these embeddings mean 0 and identity covariance (divisor N).

    "pca" with `dim` keeps the directions of largest variance, which also shortens the embeddings.

    Source: Su et al. 2021, "Whitening Sentence Representations", algorithm 1, arXiv 2103.15316;
    Kessy et al. 2018, arXiv 1512.00809 (zca, cholesky).

    Args:
        embeddings: (N, D) of the texts to fit on; never those that a score is computed of, unless
            that is the protocol.
        method: "pca", "zca" or "cholesky".
        dim: K of "pca", 1 <= K <= D; None keeps all.
        ridge: >= 0, times the largest eigenvalue, added to the diagonal of the covariance if that
            is degenerate; see `whitening_matrix`.

    Raises:
        ValueError: `dim` out of range or with another method, a negative ridge, or input that is
            not finite.
        UserError: the embeddings span fewer directions than are to be whitened.

    >>> x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> fit_whitening(x, dim=1)(x).abs().square().round().flatten().tolist()
    [2.0, 2.0, 0.0, 0.0]
    """
    x = as_matrix(embeddings, "embeddings").double()
    kept = checked_dimension(dim, x.shape[1])
    if (dim is not None and method != "pca") or ridge < 0:
        raise ValueError(f"dim is for method='pca' and ridge >= 0, got {method!r}, {dim}, {ridge}")
    with exact_math(x.device):
        mean = x.mean(dim=0)
        centred = x - mean
        covariance = centred.T @ centred / len(x)
        values = torch.linalg.eigvalsh(covariance)
        noise = float(values[-1].abs()) * torch.finfo(torch.float64).eps * max(x.shape)
        rank = int((values > noise).sum())
        if rank < kept and not ridge:
            raise UserError(
                f"{len(x)} embeddings of dimension {x.shape[1]} vary in {rank} directions only, "
                f"which is less than the {kept} to whiten: give more texts, a smaller dim or a "
                "ridge"
            )
        matrix = whitening_matrix(covariance, method, ridge=ridge)[:, :kept]
    return EmbeddingTransform(mean.cpu(), matrix.cpu())


def checked_dimension(dim: int | None, available: int) -> int:
    """Dimensions that are kept; None keeps all.

    Raises:
        ValueError: fewer than one or more than there are.
    """
    if dim is not None and not 1 <= dim <= available:
        raise ValueError(f"dim must lie in [1, {available}], got {dim}")
    return available if dim is None else dim
