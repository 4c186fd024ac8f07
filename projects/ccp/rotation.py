"""Orthogonal maps between two embedding spaces: Procrustes with pairs, adversarial without.

Legend: N rows, D dimension; W (D, D) is applied to rows as ``x @ W.T``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.evaluation.matrices import as_matrix, exact_math


@dataclass(frozen=True)
class AdversarialOptions:
    """Training of the rotation; the defaults are MUSE's, but for the number of steps.

    Attributes:
        steps: updates of W; MUSE makes five epochs of a million words.
        discriminator_steps: updates of the discriminator before each.
        batch_size: rows of either side in an update.
        hidden: units of each of the two hidden layers.
        lr: of both, with plain SGD.
        lr_decay: of W's rate, every tenth of the steps.
        beta: of the orthogonalising update.
        dropout: of the discriminator's input.
        smoothing: of its labels.
        refinements: rounds of Procrustes afterwards.
        neighbours: of CSLS.
    """

    steps: int = 5000
    discriminator_steps: int = 5
    batch_size: int = 32
    hidden: int = 2048
    lr: float = 0.1
    lr_decay: float = 0.98
    beta: float = 0.001
    dropout: float = 0.1
    smoothing: float = 0.1
    refinements: int = 5
    neighbours: int = 10


def procrustes(x: Tensor, y: Tensor) -> Tensor:
    """The rotation that brings the rows of `x` nearest to those of `y`.

    Equation: ``W = U V^T`` with ``U S V^T = svd(y^T x)``, the minimum of ``sum_i |W x_i - y_i|^2``
    over orthogonal W.

    Source: Schoenemann 1966; Conneau et al. 2018, equation 2, arXiv 1710.04087.

    Args:
        x: (N, D).
        y: (N, D), row i belongs to ``x[i]``.

    Returns:
        (D, D) float64.

    Raises:
        ValueError: shapes differ, or rows that are not finite.

    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> procrustes(torch.eye(2), torch.eye(2) @ turn.T).round().tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    x, y = as_matrix(x, "x").double(), as_matrix(y, "y").double()
    if x.shape != y.shape:
        raise ValueError(f"procrustes needs pairs of rows, got {tuple(x.shape)}, {tuple(y.shape)}")
    with exact_math(x.device):
        return _nearest_orthogonal(y.T @ x)


def csls(x: Tensor, y: Tensor, neighbours: int = 10) -> Tensor:
    """Cosines that are corrected for rows which are near to everything (hubs).

    Equation: ``2 cos(x_i, y_j) - r(x_i) - r(y_j)``, r the mean cosine of the k nearest on the other
    side.

    Source: Conneau et al. 2018, equation 3, arXiv 1710.04087.

    Args:
        x: (N, D).
        y: (M, D).
        neighbours: k; at most the rows of either side are taken.

    Returns:
        (N, M).
    """
    x, y = F.normalize(as_matrix(x, "x"), dim=1), F.normalize(as_matrix(y, "y"), dim=1)
    with exact_math(x.device):
        cosine = x @ y.T
    of_x = cosine.topk(min(neighbours, len(y)), dim=1).values.mean(dim=1)
    of_y = cosine.topk(min(neighbours, len(x)), dim=0).values.mean(dim=0)
    return 2 * cosine - of_x[:, None] - of_y


def mutual_nearest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns that are each other's best, (P,) int64 each.

    >>> [part.tolist() for part in mutual_nearest(torch.tensor([[3.0, 1.0], [2.0, 0.0]]))]
    [[0], [0]]
    """
    best, back = scores.argmax(dim=1), scores.argmax(dim=0)
    rows = (back[best] == torch.arange(len(best), device=best.device)).nonzero()[:, 0]
    return rows, best[rows]


def refine_rotation(
    x: Tensor, y: Tensor, rotation: Tensor, *, rounds: int = 5, neighbours: int = 10
) -> Tensor:
    """Alternate between mutual nearest neighbours under CSLS and Procrustes on them.

    Source: Conneau et al. 2018, section 2.2, arXiv 1710.04087.

    Args:
        x: (N, D) unpaired rows of one language.
        y: (M, D) of the other.
        rotation: (D, D) W to begin with.
        rounds: at most; it ends where no pair is left.
        neighbours: of CSLS.

    Returns:
        (D, D) float64, orthogonal.
    """
    x, y, rotation = x.double(), y.double(), rotation.double()
    for _ in range(rounds):
        rows, columns = mutual_nearest(csls(x @ rotation.T, y, neighbours))
        if not len(rows):
            break
        rotation = procrustes(x[rows], y[columns])
    return rotation


def adversarial_rotation(
    x: Tensor, y: Tensor, options: AdversarialOptions | None = None, *, seed: int = 0
) -> Tensor:
    """The rotation of `x` under which a discriminator cannot tell it from `y`; no pairs are needed.

    A discriminator of two hidden layers learns to tell ``W x`` from ``y``; W learns to fool it, and
    after each update is pulled back to orthogonality by ``W <- (1 + beta) W - beta W W^T W``. Then
    `refine_rotation`.

    Source: Conneau et al. 2018, section 2.1 and equation 7, arXiv 1710.04087, used by Wu et al.
    2022, arXiv 2206.03281 (calibration, rotation).

    Args:
        x: (N, D) rows of one language, of comparable scale with `y`; unit length is taken.
        y: (M, D) of the other.
        options: of the training.
        seed: of weights, draws and dropout; the global random state is left alone.

    Returns:
        (D, D) float64, orthogonal.

    Raises:
        ValueError: another dimension of the two sides.
    """
    options = options or AdversarialOptions()
    first, second = as_matrix(x, "x").float(), as_matrix(y, "y").float()
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"two dimensions: {tuple(first.shape)} and {tuple(second.shape)}")
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        sides = [F.normalize(side.clone(), dim=1) for side in (first, second)]
        start = _train_rotation(sides[0], sides[1], options)
        return refine_rotation(
            sides[0],
            sides[1],
            _nearest_orthogonal(start),
            rounds=options.refinements,
            neighbours=options.neighbours,
        )


def _train_rotation(x: Tensor, y: Tensor, options: AdversarialOptions) -> Tensor:
    dim = x.shape[1]
    discriminator = nn.Sequential(
        nn.Dropout(options.dropout),
        nn.Linear(dim, options.hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(options.hidden, options.hidden),
        nn.LeakyReLU(0.2),
        nn.Linear(options.hidden, 1),
    ).to(x.device)
    rotation = nn.Parameter(torch.eye(dim, device=x.device))
    tell = torch.optim.SGD(discriminator.parameters(), lr=options.lr)
    fool = torch.optim.SGD([rotation], lr=options.lr)
    target = torch.full((2 * options.batch_size, 1), options.smoothing, device=x.device)
    target[: options.batch_size] = 1 - options.smoothing  # rows of x

    def loss(labels: Tensor) -> Tensor:
        rows = [side[torch.randint(len(side), (options.batch_size,))] for side in (x, y)]
        logits = discriminator(torch.cat([rows[0] @ rotation.T, rows[1]]))
        return F.binary_cross_entropy_with_logits(logits, labels)

    for step in range(options.steps):
        for _ in range(options.discriminator_steps):
            tell.zero_grad()
            loss(target).backward()  # type: ignore[no-untyped-call]
            tell.step()
        fool.zero_grad()
        loss(1 - target).backward()  # type: ignore[no-untyped-call]
        fool.step()
        with torch.no_grad():  # Eq. 7 of Conneau et al.
            pull = rotation @ rotation.T @ rotation
            rotation.mul_(1 + options.beta).sub_(options.beta * pull)
        if (step + 1) % max(1, options.steps // 10) == 0:
            fool.param_groups[0]["lr"] *= options.lr_decay
    return rotation.detach()


def _nearest_orthogonal(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix.double())
    turn: Tensor = left @ right
    return turn
