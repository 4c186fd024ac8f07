"""Common and salient codes of two sets (SepCLR): its terms, k-JEM, the supervised salient term.

# B batch, C common dim, S salient dim, A attributes
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.losses.functional.geometry import (
    alignment,
    joint_entropy,
    pairwise_squared_distance,
    uniformity,
)
from common.losses.output import unit
from projects.sepclr.independence import hsic, squared_correlation

DISCRETE_BANDWIDTH = 1e-5  # w_ij = exp(-(y_i - y_j)^2 / 1e-5)


class SepclrTerms(NamedTuple):
    """The parts of the objective, before their weights.

    Attributes:
        common_align: A of the common codes of both views.
        common_uniform: mean of U of the two views.
        salient_align: A of the salient codes of targets.
        salient_uniform: mean of U of the salient codes, with the background at 0.
        salient_reg: distance of the background's salient codes from 0.
    """

    common_align: Tensor
    common_uniform: Tensor
    salient_align: Tensor
    salient_uniform: Tensor
    salient_reg: Tensor


def masked(salient: Tensor, target: Tensor) -> Tensor:
    """Salient codes (B, S) with the background's rows at s' = 0, which take no gradient."""
    return torch.where(target[:, None], salient, torch.zeros_like(salient))


def sepclr_terms(
    common: Sequence[Tensor], salient: Sequence[Tensor], target: Tensor, tau: float = 0.5
) -> SepclrTerms:
    """Terms of a batch that mixes both sets; an empty set contributes 0.

    Source: Louiset et al. 2024, equations 4 to 8 in the form of the released code,
    arXiv 2402.11928.

    Args:
        common: raw common heads (B, C) of view 1 and 2; normalised here.
        salient: salient heads (B, S) of view 1 and 2; not normalised.
        target: (B,) bool.
        tau: > 0, squared bandwidth.

    Returns:
        The five terms, scalars.

    Distributed: local; give it the codes of all ranks.

    >>> codes, target = [torch.eye(2)] * 2, torch.tensor([True, False])  # views agree
    >>> terms = sepclr_terms(codes, codes, target)
    >>> float(terms.common_align), float(terms.salient_reg)
    (0.0, 1.0)
    """
    c = [unit(x) for x in common]
    s = [masked(x, target) for x in salient]
    s_target = [x[target] for x in salient]
    s_background = [x[~target] for x in salient]
    return SepclrTerms(
        common_align=alignment(c[0], c[1], tau),  # Eq. 4
        common_uniform=_mean(uniformity(x, tau) for x in c),
        salient_align=_align(s_target[0], s_target[1], tau),  # Eq. 6
        salient_uniform=_mean(uniformity(x, tau) for x in s),
        salient_reg=_mean(_align(x, torch.zeros_like(x), tau) for x in s_background),
    )


def k_jem(
    common: Sequence[Tensor], salient: Sequence[Tensor], target: Tensor, tau: float
) -> Tensor:
    """Minus the kernel joint entropy of common and masked salient codes, mean over the views.

    Source: Louiset et al. 2024, section 3.4, arXiv 2402.11928.

    Args:
        common: as `sepclr_terms`.
        salient: as `sepclr_terms`.
        target: (B,) bool.
        tau: > 0, squared bandwidth.

    Returns:
        Scalar; 0 where all samples have the same codes.

    Distributed: local; give it the codes of all ranks.

    >>> same = [torch.ones(3, 2)]
    >>> float(k_jem(same, same, torch.ones(3, dtype=torch.bool), 0.5))
    0.0
    """
    pairs = zip(common, salient, strict=True)
    return _mean(joint_entropy(unit(c), masked(s, target), tau) for c, s in pairs)


def dependence(
    kind: str, common: Sequence[Tensor], salient: Sequence[Tensor], target: Tensor, tau: float
) -> Tensor:
    """Penalty on the dependence of common and masked salient codes, mean over the views.

    Source: Louiset et al. 2024, section 3.4 and its alternatives, arXiv 2402.11928; see `k_jem`,
    `hsic` and `squared_correlation`.

    Args:
        kind: kjem, mmd (joint distribution against the product of the marginals) or correlation.
        common: as `sepclr_terms`.
        salient: as `sepclr_terms`.
        target: (B,) bool.
        tau: > 0, squared bandwidth.

    Returns:
        Scalar.

    Raises:
        ValueError: another kind.

    Distributed: local; give it the codes of all ranks.

    >>> same = [torch.ones(3, 2)]  # constant codes tell nothing about each other
    >>> float(dependence("mmd", same, same, torch.ones(3, dtype=torch.bool), 0.5))
    0.0
    """
    if kind not in ("kjem", "mmd", "correlation"):
        raise ValueError(f"kind must be kjem, mmd or correlation, got {kind!r}")
    if kind == "kjem":
        return k_jem(common, salient, target, tau)
    codes = [(unit(c), masked(s, target)) for c, s in zip(common, salient, strict=True)]
    if kind == "mmd":
        return _mean(hsic(c, s, tau) for c, s in codes)
    return _mean(squared_correlation(c, s) for c, s in codes)


def attribute_loss(
    salient: Tensor,
    target: Tensor,
    attributes: Tensor,
    discrete: Sequence[bool],
    *,
    attribute_tau: float = 0.025,
    tau: float = 0.5,
) -> Tensor:
    """Supervised salient term: dimension a follows attribute a and nothing else.

        1/A sum_a { 1/2 [mean_{i<j in Y} w_ij (s_ia - s_ja)^2 + A(0, s_X,a)] + U(masked s_a) }

    with w_ij = exp(-(y_i - y_j)^2 / (2 attribute_tau)), of classes exp(-(y_i - y_j)^2 / 1e-5).

    Source: Louiset et al. 2024, supervised disentanglement of the salient space, arXiv 2402.11928.

    Args:
        salient: (B, A) raw salient head of one view.
        target: (B,) bool.
        attributes: (B, A) float; rows of the background are not read.
        discrete: whether attribute a is a class.
        attribute_tau: > 0, of continuous attributes and of their background term.
        tau: > 0, of uniformity and of the background term of classes.

    Returns:
        Scalar.

    Raises:
        ValueError: not one dimension for each attribute.

    Distributed: local; give it the codes of all ranks.

    >>> s = torch.tensor([[1.0], [1.0], [0.0]])  # two targets that agree, a background code at 0
    >>> target, y = torch.tensor([True, True, False]), torch.zeros(3, 1)
    >>> attribute_loss(s, target, y, [True]).round(decimals=4)  # U = log((1 + 2/e) / 3)
    tensor(-0.5472)
    """
    if salient.shape != attributes.shape or len(discrete) != salient.shape[1]:
        raise ValueError(
            f"one salient dimension for each attribute: got {tuple(salient.shape)}, "
            f"{tuple(attributes.shape)} and {len(discrete)} kinds"
        )
    parts = []
    for a, is_class in enumerate(discrete):
        s, y = salient[:, a : a + 1], attributes[target, a : a + 1].to(salient.dtype)
        width = DISCRETE_BANDWIDTH if is_class else 2 * attribute_tau
        weight = (-pairwise_squared_distance(y, y) / width).exp() if len(y) else y @ y.T
        background = s[~target]
        reg = _align(background, torch.zeros_like(background), tau if is_class else attribute_tau)
        pulled = _weighted_pairs(s[target], weight)
        parts.append(0.5 * (pulled + reg) + uniformity(masked(s, target), tau))
    return _mean(parts)


def _weighted_pairs(s: Tensor, weight: Tensor) -> Tensor:
    """Mean over pairs i < j of w_ij (s_i - s_j)^2; 0 without pairs."""
    if len(s) < 2:
        return s.sum() * 0
    i, j = torch.triu_indices(len(s), len(s), 1, device=s.device)
    return (weight[i, j] * (s[i, 0] - s[j, 0]).square()).mean()


def _align(x: Tensor, y: Tensor, tau: float) -> Tensor:
    """`alignment`, and 0 with a zero gradient for no rows."""
    return alignment(x, y, tau) if len(x) else x.sum() * 0


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
