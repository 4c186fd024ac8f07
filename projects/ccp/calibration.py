"""Calibration of the embeddings of one language (or domain): shift, scale, and files of them.

The statistics come from monolingual text that no score is computed of.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.config import UserError
from common.evaluation.features.postprocessing import EmbeddingTransform
from common.evaluation.matrices import as_matrix
from common.files import replacing

SMALLEST = 1e-12  # standard deviation below which a dimension is constant and is left unscaled


def fit_shift(embeddings: Tensor) -> EmbeddingTransform:
    """Map that gives these embeddings mean zero: ``x - mean``.

    Source: Wu et al. 2022, arXiv 2206.03281 (calibration, shift).

    Args:
        embeddings: (N, D) of monolingual text.

    Raises:
        ValueError: input that is not a finite matrix.

    >>> fit_shift(torch.tensor([[1.0], [3.0]]))(torch.tensor([[5.0]])).tolist()
    [[3.0]]
    """
    x = as_matrix(embeddings, "embeddings").double()
    return EmbeddingTransform(x.mean(dim=0).cpu(), torch.eye(x.shape[1], dtype=torch.float64))


def fit_shift_and_scale(embeddings: Tensor) -> EmbeddingTransform:
    """Map that also gives every dimension unit variance: ``(x - mean) / std``, divisor N.

    Source: Wu et al. 2022, arXiv 2206.03281 (calibration, shift and scale).

    Args:
        embeddings: (N, D) of monolingual text; a constant dimension is shifted only.

    Raises:
        ValueError: input that is not a finite matrix.

    >>> fit_shift_and_scale(torch.tensor([[1.0], [5.0]]))(torch.tensor([[7.0]])).tolist()
    [[2.0]]
    """
    x = as_matrix(embeddings, "embeddings").double()
    std = x.std(dim=0, correction=0)
    factors = torch.where(std > SMALLEST, 1 / std.clamp(min=SMALLEST), torch.ones_like(std))
    return EmbeddingTransform(x.mean(dim=0).cpu(), factors.diag().cpu())


def rotated(transform: EmbeddingTransform, rotation: Tensor) -> EmbeddingTransform:
    """A transform followed by a rotation.

    Args:
        transform: of shift and scale.
        rotation: (D, D) W, applied as ``x @ W.T``.
    """
    matrix = transform.matrix @ rotation.to(transform.matrix).T
    return EmbeddingTransform(transform.mean, matrix, transform.converged)


def save_calibration(path: Path, transforms: Mapping[str, EmbeddingTransform]) -> None:
    """Write the transforms of some languages as one safetensors file.

    Args:
        path: file; its folder is created.
        transforms: by language.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, transform in transforms.items():
        tensors |= {
            f"{name}.mean": transform.mean.contiguous(),
            f"{name}.matrix": transform.matrix.contiguous(),
        }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def load_calibration(path: str | Path) -> dict[str, EmbeddingTransform]:
    """The transforms of a file by language.

    Raises:
        UserError: no such file, or one of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no calibration file {path}: TASK=calibrate writes one")
    try:
        tensors = load_file(path)
        names = sorted({key.rpartition(".")[0] for key in tensors})
        return {n: EmbeddingTransform(tensors[f"{n}.mean"], tensors[f"{n}.matrix"]) for n in names}
    except Exception as error:
        raise UserError(f"{path} is not a calibration file: {error!r}") from error
