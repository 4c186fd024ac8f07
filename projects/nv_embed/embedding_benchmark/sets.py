"""Test sets of the task types of MTEB that are available, and their scores for any encoder.

| type | set | instruction | main score |
|---|---|---|---|
| retrieval | `Retrieval` | queries | nDCG@10 |
| reranking | `Reranking` | queries | mean average precision |
| classification | `Classes` | all texts | accuracy, of few texts a class if the set says so |
| clustering | `Classes` without training part | all texts | V-measure |
| pair classification | `Pairs` with flags | all texts | average precision |
| STS | `Pairs` with scores | all texts | Spearman |
| summarisation | `Summaries` | all texts | Spearman |

Source: Muennighoff et al. 2023, "MTEB", section 3.2, arXiv 2210.07316.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.figures import embedding_map, score_figure
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.retrieval.runs import tfidf_encoder
from common.evaluation.text.sts import pair_cosine, spearman
from projects.nv_embed.embedding_benchmark.tasks import (
    average_items,
    classification_correct,
    clustering_v_measure,
    few_shot_correct,
    pair_average_precision,
    reranking_scores,
    retrieval_scores,
    spearman_items,
    summarisation_spearman,
    type_averages,
)

STARTS = 10  # of k-means, whose mean counts: from one start alone two classes may share a cluster
CLASS_MAP_LIMIT = 10  # classes of an embedding map
Encode = Callable[[Sequence[str], str], Tensor]  # texts, instruction -> (N, D)


@dataclass(frozen=True)
class Retrieval:
    """Queries, documents, and the places of the documents that are right for each query."""

    instruction: str
    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]


@dataclass(frozen=True)
class Reranking:
    """Queries with their own candidates, right ones flagged."""

    instruction: str
    queries: list[str]
    candidates: list[list[str]]
    relevant: list[list[bool]]


@dataclass(frozen=True)
class Classes:
    """Labelled texts; the training part is empty for clustering.

    Attributes:
        shots: texts of every class that a probe is trained on; 0: the whole training part.
        draws: of them, whose scores are averaged.
    """

    instruction: str
    train: list[str]
    train_labels: list[int]
    test: list[str]
    test_labels: list[int]
    shots: int = 0
    draws: int = 1


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts with a gold score (STS) or a flag (pair classification)."""

    instruction: str
    first: list[str]
    second: list[str]
    gold: list[float]


@dataclass(frozen=True)
class Summaries:
    """Per document: human summaries, machine summaries, human scores of the latter."""

    instruction: str
    human: list[list[str]]
    machine: list[list[str]]
    scores: list[list[float]]


class Shows(Protocol):
    """Where pictures go."""

    def gallery(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Queries with what was retrieved for them."""

    def figure(self, name: str, figure: Any) -> object:
        """A matplotlib figure."""


EvalSet = Retrieval | Reranking | Classes | Pairs | Summaries


@dataclass(frozen=True)
class SetScore:
    """Main score of a test set.

    Attributes:
        kind: type of the task.
        metric: its name, ``<set>_<score>``.
        value: the score.
        items: values whose mean it is; empty where there are none.
    """

    kind: str
    metric: str
    value: float
    items: list[float]


def score_set(encode: Encode, data: EvalSet, name: str) -> SetScore:
    """Main score of a test set, see the table of this module.

    Args:
        encode: texts and their instruction ("": none) -> (N, D), in evaluation mode.
        data: the set.
        name: of the set.
    """
    instruction = data.instruction
    if isinstance(data, Retrieval):
        scores = retrieval_scores(
            encode(data.queries, instruction), encode(data.documents, ""), data.relevant
        )
        return SetScore("retrieval", f"{name}_ndcg_at_10", _mean(scores), scores)
    if isinstance(data, Reranking):
        candidates = [encode(texts, "") for texts in data.candidates]
        scores = reranking_scores(encode(data.queries, instruction), candidates, data.relevant)
        return SetScore("reranking", f"{name}_map", _mean(scores), scores)
    if isinstance(data, Classes):
        labels, test = torch.tensor(data.test_labels), encode(data.test, instruction)
        if not data.train:
            starts = [clustering_v_measure(test, data.test_labels, seed=s) for s in range(STARTS)]
            return SetScore("clustering", f"{name}_v_measure", _mean(starts), [])
        train, train_labels = encode(data.train, instruction), torch.tensor(data.train_labels)
        if data.shots:
            correct = few_shot_correct(train, train_labels, test, labels, data.shots, data.draws)
        else:
            correct = classification_correct(train, train_labels, test, labels)
        scores = correct.double().tolist()
        return SetScore("classification", f"{name}_accuracy", _mean(scores), scores)
    if isinstance(data, Summaries):
        human, machine = (
            [encode(texts, instruction) for texts in side] for side in (data.human, data.machine)
        )
        value = summarisation_spearman(human, machine, data.scores)
        return SetScore("summarisation", f"{name}_spearman", value, [])
    first, second = encode(data.first, instruction), encode(data.second, instruction)
    if set(data.gold) <= {0.0, 1.0}:
        value = pair_average_precision(first, second, [g > 0 for g in data.gold])
        return SetScore("pair_classification", f"{name}_average_precision", value, [])
    cosine = pair_cosine(first, second).tolist()
    value = spearman(cosine, data.gold)
    return SetScore("sts", f"{name}_spearman", value, spearman_items(cosine, data.gold))


def score_sets(
    encoder_of: Callable[[EvalSet], Encode], sets: Mapping[str, EvalSet], primary: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores of all sets with chance values, averages by type, and the mean of the primary sets.

    Args:
        encoder_of: encoder for a set; `tfidf_of` is the trivial baseline.
        sets: by name.
        primary: names whose mean is ``primary_average``.

    Returns:
        Metrics, and the items of those that have some; ``primary_average`` has them if all of its
        sets do.
    """
    metrics: dict[str, float] = {}
    by_type: dict[str, dict[str, float]] = {}
    items: dict[str, list[float]] = {}
    chosen: dict[str, list[float]] = {}
    values: dict[str, float] = {}
    for name, data in sets.items():
        score = score_set(encoder_of(data), data, name)
        metrics[score.metric] = values[name] = score.value
        by_type.setdefault(score.kind, {})[name] = score.value
        if score.items:
            items[score.metric] = chosen[name] = score.items
        if isinstance(data, Classes) and data.train:
            metrics[f"{score.metric}_chance"] = 1 / (1 + max(data.train_labels + data.test_labels))
    if primary and values.keys() >= set(primary):
        metrics["primary_average"] = _mean([values[name] for name in primary])
    if primary and chosen.keys() >= set(primary):
        items["primary_average"] = average_items({name: chosen[name] for name in primary})
    return metrics | type_averages(by_type), items


def tfidf_of(data: EvalSet) -> Encode:
    """TF-IDF of a set's own texts; instructions are left out, they are the same words in all."""
    encode = tfidf_encoder(set_texts(data))
    return lambda texts, _: encode(list(texts))


def show_set(encode: Encode, data: EvalSet, name: str, shown: Shows) -> None:
    """Pictures of a set: nearest documents, map of few classes, predicted against gold.

    Args:
        encode: see `score_set`.
        data: the set.
        name: of the set.
        shown: takes them, such as a run's workspace.
    """
    instruction = data.instruction
    if isinstance(data, Retrieval):
        rows = F.normalize(encode(data.queries, instruction), dim=1)
        scores = rows @ F.normalize(encode(data.documents, ""), dim=1).T
        right = [min(golds) for golds in data.relevant]
        gallery = retrieval_gallery(scores, data.queries, data.documents, right)
        shown.gallery(f"nearest documents {name}", gallery)
    elif isinstance(data, Classes) and len(set(data.test_labels)) <= CLASS_MAP_LIMIT:
        labels = torch.tensor(data.test_labels)
        names = [str(i) for i in range(int(labels.max()) + 1)]
        shown.figure(
            f"map {name}", embedding_map(encode(data.test, instruction), labels, names, name)
        )
    elif isinstance(data, Pairs) and not set(data.gold) <= {0.0, 1.0}:
        cosine = pair_cosine(encode(data.first, instruction), encode(data.second, instruction))
        shown.figure(name, score_figure(cosine.tolist(), data.gold, name))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def set_texts(data: EvalSet) -> list[str]:
    """The distinct texts of a set."""
    return list(dict.fromkeys(_texts(data)))


def _texts(data: EvalSet) -> list[str]:
    if isinstance(data, Retrieval):
        return data.queries + data.documents
    if isinstance(data, Reranking):
        return [*data.queries, *chain(*data.candidates)]
    if isinstance(data, Classes):
        return data.train + data.test
    if isinstance(data, Pairs):
        return data.first + data.second
    return list(chain(*data.human, *data.machine))
