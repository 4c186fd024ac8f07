"""The task types of MTEB on embeddings that are available; one main score each, in [0, 1].

| type | main score |
|---|---|
| retrieval | nDCG@10 |
| reranking | mean average precision |
| classification | accuracy of a logistic regression |
| clustering | V-measure of k-means |
| pair classification | average precision of the cosine |
| STS | Spearman of the cosine |
| summarisation | mean over documents of the Spearman between cosine and human score |

Source: Muennighoff et al. 2023, "MTEB", section 3.2, arXiv 2210.07316.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from common.data.samplers import sample_rng
from common.evaluation.features.linear_probe import fit_logistic_regression, l2_of
from common.evaluation.matrices import as_labels, as_matrix
from common.evaluation.retrieval.ranking import average_precision, ndcg
from common.evaluation.search import stable_topk
from common.evaluation.text.sts import spearman
from common.evaluation.text.transfer import C_GRID, stratified_folds

TIE = 1e-12  # difference of cosines below which two candidates are equal, as `tie_margin`
_SHOT_STREAM = 2**31 + 61


def retrieval_scores(
    query: Tensor, document: Tensor, relevant: Sequence[set[int]], k: int = 10
) -> list[float]:
    """nDCG@k of every query, all relevant documents of grade 1.

    Args:
        query: (Q, D).
        document: (G, D).
        relevant: places of each query's documents, at least one each.
        k: cut-off.

    Raises:
        ValueError: embeddings with NaN or infinity.

    >>> import torch
    >>> retrieval_scores(torch.eye(2), torch.eye(2), [{0}, {0}])
    [1.0, 0.6309297535714575]
    """
    ranked = stable_topk(_cosine(query, document), min(k, len(document))).indices.tolist()
    return [
        ndcg(np.array([float(i in golds) for i in row]), np.ones(len(golds)), k)
        for row, golds in zip(ranked, relevant, strict=True)
    ]


def reranking_scores(
    query: Tensor, candidates: Sequence[Tensor], relevant: Sequence[Sequence[bool]]
) -> list[float]:
    """Average precision of every query over its own candidates.

    Ties count against the relevant ones.

    Args:
        query: (Q, D).
        candidates: for each query (C, D).
        relevant: for each query C flags, at least one true.

    Raises:
        ValueError: embeddings with NaN or infinity.
    """
    scores = []
    for row, texts, flags in zip(query, candidates, relevant, strict=True):
        right = torch.as_tensor(flags, dtype=torch.bool)
        cosine = _cosine(row[None], texts) - TIE * right
        order = stable_topk(cosine, len(texts)).indices[0]
        hits = right[order].numpy()
        scores.append(average_precision(hits, int(hits.sum())))
    return scores


def classification_correct(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, seed: int = 0
) -> Tensor:
    """Which test texts a logistic regression on the embeddings classifies rightly, (N,) bool.

    The strength of the penalty is chosen on one of three folds of the training part, after a fit on
    the other two.

    Args:
        train: (M, D).
        train_labels: (M,) int64 in [0, C), at least three of every class.
        test: (N, D).
        test_labels: (N,) int64.
        seed: of the folds.
    """
    x, test = as_matrix(train, "train"), as_matrix(test, "test")
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    y = as_labels(train_labels, len(x), "train_labels", classes)
    folds = stratified_folds(y.cpu(), 3, seed)
    held = folds == 0
    hits = []
    for c in C_GRID:
        fit = fit_logistic_regression(
            x[~held], y[~held], 1 / (c * int((~held).sum())), classes, tolerance=1e-4
        )
        hits.append(int((F.linear(x[held], *fit).argmax(1) == y[held]).sum()))
    best = C_GRID[int(np.argmax(hits))]
    fit = fit_logistic_regression(x, y, 1 / (best * len(x)), classes, tolerance=1e-4)
    return (F.linear(test, *fit).argmax(1) == test_labels.to(test.device)).cpu()


def few_shot_correct(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, shots: int, draws: int
) -> Tensor:
    """How often a logistic regression on a few texts a class is right, (N,) float64 in [0, 1].

    MTEB's classification: the mean over draws of the few texts, penalty fixed (C = 1 in
    scikit-learn's terms). The draws are the same for every encoder.

    Source: Muennighoff et al. 2023, "MTEB", section 3.2, arXiv 2210.07316.

    Args:
        train: (M, D).
        train_labels: (M,) int64 in [0, C), at least `shots` of every class.
        test: (N, D).
        test_labels: (N,) int64.
        shots: texts of a class.
        draws: > 0.
    """
    x, test = as_matrix(train, "train"), as_matrix(test, "test")
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    y = as_labels(train_labels, len(x), "train_labels", classes)
    correct = torch.zeros(len(test), dtype=torch.float64)
    for draw in range(draws):
        order = torch.from_numpy(sample_rng(0, draw, 0, _SHOT_STREAM).permutation(len(x)))
        rows = torch.cat([order[y.cpu()[order] == c][:shots] for c in range(classes)])
        l2 = l2_of(1.0, len(rows), classes)
        fit = fit_logistic_regression(x[rows], y[rows], l2, classes, tolerance=1e-3)
        correct += (F.linear(test, *fit).argmax(1).cpu() == test_labels.cpu()).double()
    return correct / draws


def clustering_v_measure(x: Tensor, labels: Sequence[int], *, seed: int = 0) -> float:
    """V-measure of mini-batch k-means with as many clusters as classes.

    Deviation: rows are L2-normalised before k-means, in batches of 512; MTEB takes them as they
    are, in batches of 500.

    Args:
        x: (N, D).
        labels: N classes.
        seed: of k-means.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    clusters = MiniBatchKMeans(len(set(labels)), batch_size=512, n_init=1, random_state=seed)
    assigned = clusters.fit_predict(F.normalize(x.float(), dim=1).numpy())
    return float(v_measure_score(list(labels), assigned))


def pair_average_precision(first: Tensor, second: Tensor, same: Sequence[bool]) -> float:
    """Average precision of the cosine for pairs that are (not) equivalent.

    Args:
        first: (N, D).
        second: (N, D).
        same: N flags.
    """
    from sklearn.metrics import average_precision_score

    cosine = F.cosine_similarity(first.double(), second.double())
    return float(average_precision_score(np.asarray(same, dtype=int), cosine.numpy()))


def summarisation_spearman(
    human: Sequence[Tensor], machine: Sequence[Tensor], scores: Sequence[Sequence[float]]
) -> float:
    """Agreement of a model with human scores of summaries, mean over documents.

    A machine summary's score is its largest cosine with a human summary of the document. Documents
    with one constant side are left out, as MTEB does.

    Args:
        human: per document (H, D).
        machine: per document (S, D).
        scores: per document S human scores.

    Raises:
        ValueError: no document is left, or embeddings with NaN or infinity.
    """
    correlations = []
    for reference, texts, gold in zip(human, machine, scores, strict=True):
        best = _cosine(texts, reference).max(dim=1).values.numpy()
        if len(set(gold)) > 1 and len(set(best.tolist())) > 1:
            correlations.append(spearman(best, gold))
    if not correlations:
        raise ValueError("every document has constant scores")
    return float(np.mean(correlations))


def spearman_items(predicted: Sequence[float], gold: Sequence[float]) -> list[float]:
    """Contribution of every pair to Spearman's correlation: their mean is the correlation.

    The product of the two standardised ranks; zeros where one side is constant, as `spearman`.

    >>> round(sum(spearman_items([0.1, 0.4, 0.2], [1, 3, 2])) / 3, 6)
    1.0
    """
    sides = [rankdata(side) for side in (predicted, gold)]
    if not all(rank.std() for rank in sides):
        return [0.0] * len(predicted)
    a, b = ((rank - rank.mean()) / rank.std() for rank in sides)
    return [float(v) for v in a * b]


def type_averages(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Averages as MTEB reports them.

    Args:
        scores: type -> task -> main score.

    Returns:
        ``<type>_average`` for each type, and ``average`` over all tasks.
    """
    averages = {
        f"{kind}_average": float(np.mean(list(values.values()))) for kind, values in scores.items()
    }
    return averages | {
        "average": float(np.mean([v for values in scores.values() for v in values.values()]))
    }


def average_items(items: Mapping[str, Sequence[float]]) -> list[float]:
    """Values per item whose mean is the mean over tasks of each task's mean.

    >>> average_items({"a": [1.0, 0.0], "b": [1.0]})
    [0.75, 0.0, 1.5]
    """
    total = sum(len(values) for values in items.values())
    return [
        value * total / (len(items) * len(values)) for values in items.values() for value in values
    ]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (F.normalize(as_matrix(x, "embeddings").double(), dim=1) for x in (a, b))
    return a @ b.T
