"""The STS protocol: cosine of frozen embeddings against gold scores, no regression on top."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from common.data.text.options import metric_prefix
from common.data.text.sets import StsSet
from common.evaluation.text.sts import pair_cosine, sts_score

Encode = Callable[[list[str]], Tensor]  # N texts -> (N, D)


def evaluate_sts(
    encode: Encode, sets: Mapping[str, StsSet]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Spearman of cosine and gold score on several sets.

    A set's score is one correlation over all of its pairs, the "all" setting of the literature
    since SimCSE; the mean over subsets, which earlier work reports, stands next to it under another
    name. Each distinct sentence is encoded once.

    Source: Gao et al. 2021, appendix B, arXiv 2104.08821; Conneau & Kiela 2018, arXiv 1803.05449.
    Deviation: a zero embedding has cosine 0 as there, NaN is refused instead of read as 0.

    Args:
        encode: maps N texts to (N, D) embeddings, without cutting them below the encoder's limit.
        sets: sets by name.

    Returns:
        Metrics and the cosine of every pair by the set's name. For each set ``<set>_spearman`` and,
        if it has several subsets, ``<set>_spearman_mean`` (unweighted); then
        ``sts_average_spearman``, the unweighted mean of the sets' ``<set>_spearman``. ``<set>`` is
        `metric_prefix` of the name. Chance is 0.

    Raises:
        ValueError: no sets, two names of one prefix, or embeddings that do not fit.
    """
    _check_names(sets)
    texts = [text for data in sets.values() for text in (*data.first, *data.second)]
    embeddings, row = encode_distinct(encode, texts)
    cosines: dict[str, list[float]] = {}
    for name, data in sets.items():
        first, second = ([row[text] for text in side] for side in (data.first, data.second))
        cosines[name] = pair_cosine(embeddings[first], embeddings[second]).tolist()
    return score_sts(sets, cosines), cosines


def score_sts(
    sets: Mapping[str, StsSet], similarities: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The metrics of `evaluate_sts`, of similarities that are computed already.

    Args:
        sets: by name.
        similarities: of every pair of each set.

    Raises:
        ValueError: no sets, or two names of one prefix.
    """
    prefixes = _check_names(sets)
    metrics: dict[str, float] = {}
    for name, data in sets.items():
        score = sts_score(similarities[name], data.scores, data.subsets)
        metrics[f"{prefixes[name]}_spearman"] = score["spearman"]
        if len(set(data.subsets)) > 1:
            metrics[f"{prefixes[name]}_spearman_mean"] = score["spearman_mean"]
    scores = [metrics[f"{prefix}_spearman"] for prefix in prefixes.values()]
    return metrics | {"sts_average_spearman": sum(scores) / len(scores)}


def _check_names(sets: Mapping[str, StsSet]) -> dict[str, str]:
    """Prefix of each set's metrics."""
    prefixes = {name: metric_prefix(name) for name in sets}
    twice = [prefix for prefix, count in Counter(prefixes.values()).items() if count > 1]
    if not sets or twice:
        raise ValueError(f"STS needs sets of distinct names, got {', '.join(sets) or 'none'}")
    return prefixes


def encode_distinct(encode: Encode, texts: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
    """Encode each distinct text once.

    Args:
        encode: maps N texts to (N, D).
        texts: with repetitions.

    Returns:
        (M, D) embeddings of the M distinct texts on the CPU, and the row of each text.

    Raises:
        ValueError: `encode` returns another number of rows.
    """
    distinct = list(dict.fromkeys(texts))
    embeddings = encode(distinct)
    if embeddings.ndim != 2 or len(embeddings) != len(distinct):
        raise ValueError(f"{len(distinct)} texts gave embeddings {tuple(embeddings.shape)}")
    return torch.as_tensor(embeddings).detach().cpu(), {t: i for i, t in enumerate(distinct)}
