"""``eval.own`` for encoders of texts: scored pairs, labelled texts, judged queries.

Every function takes the rows of its table, prefix -> context that gives ``encode``: "" for the
trained encoder, whose items and galleries are kept, and "untrained_".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from common.data.text.labelled.own_texts import OwnTexts, load_own_texts
from common.data.text.labelled.readers import LabelledSet
from common.data.text.sets import StsSet, load_scored_pairs
from common.engine.workspace import Workspace
from common.evaluation.gallery import same_class_gallery
from common.evaluation.retrieval.beir import RetrievalSet, load_beir
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import LEXICAL, dense_run, lexical_run, run_scores
from common.evaluation.text.class_baselines import majority_fit, words_fit
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.evaluation.text.sts import pair_cosine, spearman
from common.evaluation.text.sts_protocol import Encode, encode_distinct
from common.evaluation.text.transfer import (
    C_GRID,
    SPLIT_SEED,
    LabelledTexts,
    TransferTask,
    evaluate_transfer,
    stratified_folds,
)

Rows = Mapping[str, AbstractContextManager[Encode]]

FOLDS, LEAST = 5, 4  # of the cross-validation, at most; texts of a class, at least
AMONG = 1000  # texts among which the gallery finds neighbours
SHOWN, HITS = 6, 5  # queries or pairs of a gallery; documents of each


# -- scored pairs --------------------------------------------------------------------------------


def judge_pairs(rows: Rows, workspace: Workspace, path: Path) -> dict[str, float]:
    """Spearman correlation of cosines and a user's scores.

    Returns:
        ``num_pairs``, ``num_skipped``; ``spearman``, and with the prefixes of the rows,
        ``jaccard_`` (word overlap) and ``tfidf_``.

    Raises:
        UserError: see `load_scored_pairs`.
    """
    data = load_scored_pairs(path)
    if data.num_skipped:
        total = len(data) + data.num_skipped
        workspace.say(f"{path.name}: {data.num_skipped} of {total} rows have no text or no score")
    metrics = {"num_pairs": float(len(data)), "num_skipped": float(data.num_skipped)}
    for prefix, context in rows.items():
        with context as encode:
            embeddings, row = encode_distinct(encode, [*data.first, *data.second])
        first, second = ([row[text] for text in side] for side in (data.first, data.second))
        similarities = pair_cosine(embeddings[first], embeddings[second]).tolist()
        metrics[f"{prefix}spearman"] = spearman(similarities, data.scores)
        if not prefix:
            workspace.rank_items("spearman", similarities, data.scores)
            show_pairs(data, similarities, workspace)
    for name, similarity in (("jaccard", word_overlap), ("tfidf", tfidf_cosine)):
        metrics[f"{name}_spearman"] = spearman(similarity(data.first, data.second), data.scores)
    return metrics


def show_pairs(data: StsSet, similarities: list[float], workspace: Workspace) -> None:
    """Galleries of the pairs whose ranks by similarity and by score differ most."""
    from scipy.stats import rankdata

    above = rankdata(similarities) - rankdata(data.scores)
    order = np.argsort(above, kind="stable").tolist()
    for title, chosen in (
        ("pairs ranked too high", order[::-1][:SHOWN]),
        ("pairs ranked too low", order[:SHOWN]),
    ):
        rows: list[dict[str, Any]] = []
        for i in chosen:
            result = {
                "item": data.second[i],
                "score": similarities[i],
                "name": f"scored {data.scores[i]:g}",
            }
            rows.append({"query": data.first[i], "results": [result]})
        workspace.gallery(title, rows)


# -- labelled texts ------------------------------------------------------------------------------


def judge_labelled(rows: Rows, workspace: Workspace, path: Path) -> dict[str, float]:
    """Cross-validated accuracy of a logistic regression on frozen embeddings of a user's texts.

    Returns:
        ``num_texts``, ``num_classes``, ``num_skipped``; ``accuracy`` with ``_chance`` (the most
        frequent class) and with the prefixes of the rows; ``tfidf_accuracy`` of a regression on
        words in the same folds.

    Raises:
        UserError: see `load_own_texts`.
    """
    data = load_own_texts(path, LEAST)
    folds = _folds(data)
    if data.num_skipped or data.rare:
        rare = ", ".join(f"{label} ({count})" for label, count in data.rare.items())
        left_out = f"; classes of fewer than {LEAST} texts are left out: {rare}" if rare else ""
        workspace.say(f"{path.name}: {data.num_skipped} rows have no text or no label{left_out}")
    metrics = {
        "num_texts": float(len(data.texts)),
        "num_classes": float(len(data.classes)),
        "num_skipped": float(data.num_skipped + sum(data.rare.values())),
    }
    task = {"own": TransferTask("own", LabelledTexts(data.texts, data.labels))}
    for prefix, context in rows.items():
        with context as encode:
            values = evaluate_transfer(encode, task, folds=folds, c_grid=C_GRID[::2])
            metrics[f"{prefix}accuracy"] = values["own_accuracy"]
            if not prefix:
                metrics["accuracy_chance"] = values["own_accuracy_chance"]
                step = -(-len(data.texts) // AMONG)
                texts, labels = data.texts[::step], data.labels[::step]
                unit = F.normalize(encode(texts), dim=1)
                gallery = same_class_gallery(unit @ unit.T, texts, labels)
                workspace.gallery("nearest texts", gallery)
    metrics["tfidf_accuracy"] = _words_accuracy(data, folds)
    return metrics


def _folds(data: OwnTexts) -> int:
    """The most folds for which the smallest class has enough texts, also in the inner ones."""
    smallest = min(Counter(data.labels).values())
    return max(k for k in range(2, FOLDS + 1) if k == 2 or smallest - -(-smallest // k) >= k)


def _words_accuracy(data: OwnTexts, folds: int) -> float:
    """Accuracy of TF-IDF weights of words in the folds of `evaluate_transfer`."""
    labels = np.asarray(data.labels)
    fold_of = stratified_folds(torch.from_numpy(labels), folds, SPLIT_SEED).numpy()
    texts = LabelledSet([(text,) for text in data.texts], labels, tuple(data.classes))
    right = 0
    for fold in range(folds):
        held = np.flatnonzero(fold_of == fold)
        fit = words_fit() if _has_words(data.texts) else majority_fit
        classify = fit(texts.subset(np.flatnonzero(fold_of != fold)))
        right += int((classify([texts.texts[i] for i in held]) == labels[held]).sum())
    return right / len(labels)


def _has_words(texts: list[str]) -> bool:
    return any(character.isalnum() for text in texts for character in text)


# -- judged queries ------------------------------------------------------------------------------


def judge_queries(rows: Rows, workspace: Workspace, folder: Path) -> dict[str, float]:
    """Retrieval by cosine on a user's set in the BEIR layout, with one encoder for both sides.

    Returns:
        ``num_queries``, ``num_documents``, those of `RetrievalSet.gaps`; metrics of `run_scores`,
        also with the prefixes of the rows, ``bm25_`` and ``tfidf_``.

    Raises:
        UserError: see `load_beir`.
    """
    data = load_beir(folder, "test" if (folder / "qrels/test.tsv").is_file() else None)
    metrics = {
        "num_queries": float(len(data.queries)),
        "num_documents": float(len(data.corpus)),
    }
    missing, sentence = data.gaps()
    if sentence:
        workspace.say(f"{folder.name}: {sentence}")
    metrics |= missing
    runs: dict[str, Run] = {}
    for prefix, context in rows.items():
        with context as encode:
            runs[prefix] = dense_run(data, encode, encode)
    runs |= {f"{method}_": lexical_run(data, method) for method in LEXICAL}
    for prefix, run in runs.items():
        scores = run_scores(data, run)
        metrics |= {f"{prefix}{name}": value for name, value in scores.metrics.items()}
        workspace.items(f"{prefix}ndcg_at_10", scores.per_query["ndcg_at_10"])
        if not prefix:
            show_queries(data, run, scores.per_query["ndcg_at_10"], workspace)
    return metrics


def show_queries(
    data: RetrievalSet, run: Run, values: Sequence[float], workspace: Workspace, name: str = ""
) -> None:
    """Galleries of the queries with the largest and the smallest nDCG@10.

    Args:
        data: the judged set.
        run: what is found.
        values: of the queries, in the order of the judgements.
        workspace: takes the galleries.
        name: of the set, behind their titles.
    """
    queries = list(data.qrels)
    order = np.argsort(values, kind="stable").tolist()
    for title, chosen in (("best queries", order[::-1][:SHOWN]), ("worst queries", order[:SHOWN])):
        rows: list[dict[str, Any]] = []
        for place in chosen:
            query = queries[place]
            results = [
                {"item": data.corpus[d], "score": s, "correct": data.qrels[query].get(d, 0) > 0}
                for d, s in list(run[query].items())[:HITS]
            ]
            rows.append({"query": data.queries[query], "results": results})
        workspace.gallery(f"{title} {name}".strip(), rows)
