"""Independent components of embeddings."""

import torch
from torch import Tensor

from common.config import UserError
from common.evaluation.features.postprocessing import EmbeddingTransform, checked_dimension
from common.evaluation.matrices import as_matrix


def fit_ica(
    embeddings: Tensor,
    *,
    dim: int | None = None,
    standardize: bool = True,
    scale: float = 1.0,
    max_iter: int = 1000,
    tol: float = 1e-4,
    seed: int = 0,
) -> EmbeddingTransform:
    """Independent components: uncorrelated directions that are as far from Gaussian as possible.

    FastICA of scikit-learn (parallel, log cosh, unit variance). Sign and order of the components
    are arbitrary: compare cosines and norms, not columns.

    Source: Hyvarinen and Oja 2000, "Independent component analysis", sections 4 to 6.

    Args:
        embeddings: (N, D), N > D.
        dim: K components, 1 <= K <= D; None takes D.
        standardize: divide each dimension by its standard deviation first.
        scale: > 0, standard deviation of every component.
        max_iter: upper bound on the iterations; `converged` says whether it was met.
        tol: of the change of a component.
        seed: of the initial rotation.

    Raises:
        ValueError: an argument out of range, or input that is not finite.
        UserError: the embeddings span fewer directions than K.
    """
    import warnings

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    x = as_matrix(embeddings, "embeddings").double().cpu()
    kept = checked_dimension(dim, x.shape[1])
    if scale <= 0 or max_iter < 1:
        raise ValueError(f"scale must be > 0 and max_iter >= 1, got {scale} and {max_iter}")
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    rank = int(torch.linalg.matrix_rank(x - mean))
    if rank < kept:
        raise UserError(
            f"{len(x)} embeddings vary in {rank} directions, fewer than {kept} components: give "
            "more texts or a smaller dim"
        )
    divisor = torch.where(deviation > 0, deviation, 1.0) if standardize else torch.ones_like(mean)
    ica = FastICA(
        n_components=kept,
        whiten="unit-variance",
        fun="logcosh",
        tol=tol,
        max_iter=max_iter,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        ica.fit(((x - mean) / divisor).numpy())
    components = torch.from_numpy(ica.components_).to(torch.float64)  # (K, D)
    matrix = components.T / divisor[:, None] * scale
    return EmbeddingTransform(mean, matrix, converged=ica.n_iter_ < max_iter)
