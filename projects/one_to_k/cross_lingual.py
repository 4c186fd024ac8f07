"""Retrieval in several languages: recall of each, their spread, and the variance of ranks.

# L languages, Q queries
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Ranks(NamedTuple):
    """Ranks of one language, from 1: of each image's best text, and of each text's image."""

    image_to_text: Tensor  # (I,) int64
    text_to_image: Tensor  # (T,) int64


def rank_deviation(ranks: Tensor) -> Tensor:
    """Population standard deviation over languages of each query's rank.

    Args:
        ranks: (L, Q) ranks of the right item, counted from 0 or from 1.

    Returns:
        (Q,) float64.
    """
    return ranks.double().std(0, correction=0)


def mean_rank_variance(ranks: Tensor) -> dict[str, float]:
    """How much the rank of the same item differs between languages: MRV, less is better.

        mrv_std = mean_q std_l r_ql,   mrv_var = mean_q var_l r_ql

    The released code publishes the deviation under the name of the variance.

    Source: Nie et al. 2024, section 4 (MRV) and its released evaluation, arXiv 2406.18254.

    Args:
        ranks: (L, Q) ranks of the right item; column q is one query in all languages.

    Raises:
        ValueError: not a matrix of at least one language and query.

    >>> mean_rank_variance(torch.tensor([[0, 3], [2, 3]]))
    {'mrv_std': 0.5, 'mrv_var': 0.5}
    """
    if ranks.ndim != 2 or 0 in ranks.shape:
        raise ValueError(f"need (languages, queries), got {tuple(ranks.shape)}")
    deviation = rank_deviation(ranks)
    return {"mrv_std": float(deviation.mean()), "mrv_var": float(deviation.square().mean())}


def recall(ranks: Tensor, k: int) -> float:
    """Share of queries whose right item is among the first k.

    >>> recall(torch.tensor([1, 2, 9]), 1)
    0.3333333333333333
    """
    return float((ranks <= k).double().mean())


def cross_lingual_metrics(
    ranks: Mapping[str, Ranks], *, aligned: bool, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall per language and over all, its spread, and MRV: one table.

    Args:
        ranks: of each language.
        aligned: whether query q is the same item in every language; without that there is no MRV.
        ks: cut-offs.

    Returns:
        ``<language>_{image_to_text,text_to_image}_recall_at_k``, ``<language>_recall_mean`` over k
        and directions, ``recall_mean`` over languages and ``recall_spread`` (largest minus
        smallest), ``{image_to_text,text_to_image}_recall_at_k`` (means over languages); if aligned
        ``{...}_mrv_std``, ``{...}_mrv_var``, ``mrv_std`` (mean of both directions) and
        ``mrv_over_mean_rank``, the deviation in units of the mean rank.
    """
    metrics: dict[str, float] = {}
    means: list[float] = []
    for language, language_ranks in ranks.items():
        recalls = {
            f"{direction}_recall_at_{k}": recall(values, k)
            for direction, values in language_ranks._asdict().items()
            for k in ks
        }
        metrics |= {f"{language}_{name}": value for name, value in recalls.items()}
        means.append(sum(recalls.values()) / len(recalls))
        metrics[f"{language}_recall_mean"] = means[-1]
        for name, value in recalls.items():
            metrics[name] = metrics.get(name, 0.0) + value / len(ranks)
    metrics["recall_mean"] = sum(means) / len(means)
    metrics["recall_spread"] = max(means) - min(means)
    if not aligned:
        return metrics
    relative = []
    for direction in Ranks._fields:
        stacked = torch.stack(
            [getattr(language_ranks, direction) for language_ranks in ranks.values()]
        )
        for name, value in mean_rank_variance(stacked).items():
            metrics[f"{direction}_{name}"] = value
        mean_rank = float(stacked.double().mean())
        relative.append(metrics[f"{direction}_mrv_std"] / mean_rank)
    metrics["mrv_std"] = sum(metrics[f"{d}_mrv_std"] for d in Ranks._fields) / 2
    metrics["mrv_over_mean_rank"] = sum(relative) / 2
    return metrics
