"""What a teacher and a student have to beat: the most frequent class, words, frozen vectors."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, hstack
from torch import Tensor
from torch.nn import functional as F

from common.data.text.lexical import surface_similarity, words
from common.data.text.pairs.readers import PairSet
from common.encoders.heads import pair_features
from common.encoders.modes import evaluated, untrained
from common.encoders.text.sentence import sentence_encoder
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import EmbeddingTransform, fit_whitening
from common.evaluation.text.pair_baselines import tfidf_cosine
from projects.dse.config import Config
from projects.dse.evaluate import evaluate, save_items
from projects.dse.module import first_student
from projects.dse.pair_classifier import task_pairs
from projects.dse.pair_tasks import score_pair_task

NEGATIONS = {"not", "no", "never", "nobody", "nothing", "none", "n't"}


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The most frequent class of the training pairs (the mean score of a regression)."""

    def fit(train: PairSet, tests: Sequence[PairSet]) -> list[np.ndarray]:
        if cfg.data.pair_task.kind == "regression":
            return [np.full((len(test), 1), train.labels.mean()) for test in tests]
        counts = np.bincount(train.labels, minlength=len(cfg.data.pair_task.labels))
        return [np.tile(np.log(counts + 1e-9), (len(test), 1)) for test in tests]

    return _scored(cfg, workspace, fit)


def hypothesis_only(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Logistic regression on words and word pairs of the second text."""
    return _linear(cfg, workspace, lambda vocabulary, data: vocabulary.transform(data.second))


def overlap(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same on a few numbers about shared words, lengths and negation."""
    return _linear(cfg, workspace, lambda vocabulary, data: csr_matrix(overlap_features(data)))


def overlap_trees(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Boosted trees on word overlap; the relation need not be monotonic."""
    return _linear(cfg, workspace, lambda vocabulary, data: overlap_features(data), trees=True)


def whitened_cosine(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Boosted trees on the untrained encoder's cosine, whitened on the training pairs."""
    fitted: list[EmbeddingTransform] = []

    def features(data: PairSet) -> np.ndarray:
        u, v = _vectors(cfg, data)
        if not fitted:  # the training pairs come first
            fitted.append(fit_whitening(torch.cat([u, v]), ridge=1e-3))
        u, v = (F.normalize(fitted[0](x), dim=1) for x in (u, v))
        return np.asarray((u * v).sum(1, keepdim=True).numpy(), dtype=np.float64)

    return _linear(cfg, workspace, lambda vocabulary, data: features(data), trees=True)


def hypothesis_overlap(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same on both."""
    return _linear(
        cfg,
        workspace,
        lambda vocabulary, data: hstack(
            [vocabulary.transform(data.second), csr_matrix(overlap_features(data))]
        ),
    )


def frozen_linear(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same on [u; v; u * v; |u - v|] of the encoder before training, mean over tokens."""

    def features(data: PairSet) -> np.ndarray:
        return np.asarray(pair_features(*_vectors(cfg, data)).numpy(), dtype=np.float64)

    return _linear(cfg, workspace, lambda vocabulary, data: features(data))


def untrained_student(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The student before its first step."""
    return evaluate(cfg, first_student(cfg).eval(), workspace)


def overlap_features(data: PairSet) -> np.ndarray:
    """(N, 8): Jaccard and TF-IDF similarity, shares of shared words, negations, lengths."""
    rows = []
    likeness = tfidf_cosine(data.first, data.second)
    jaccard = surface_similarity(data.first, data.second, "jaccard")
    for (a, b), shared, cosine in zip(data.pairs, jaccard, likeness, strict=True):
        first, second = set(words(a)), set(words(b))
        both = len(first & second)
        denied = [len(side & NEGATIONS) > 0 for side in (first, second)]
        rows.append(
            [
                float(shared),
                cosine,
                both / max(len(second), 1),
                both / max(len(first), 1),
                float(denied[1]),
                float(denied[0] != denied[1]),
                np.log1p(len(second)),
                np.log1p(len(first)),
            ]
        )
    return np.array(rows)


def _vectors(cfg: Config, data: PairSet) -> tuple[Tensor, Tensor]:
    """Vectors (N, D) of both sides by the encoder before training, mean over tokens."""
    encoder = untrained(
        lambda: sentence_encoder(cfg.student.encoder, config=cfg.student.config), cfg.seed
    )
    texts = list(dict.fromkeys([*data.first, *data.second]))
    row_of = dict(zip(texts, range(len(texts)), strict=True))
    with evaluated(encoder, cfg.trainer.accelerator):
        vectors = encoder.encode(texts, cfg.eval.batch_size)
    u, v = (vectors[[row_of[t] for t in side]] for side in (data.first, data.second))
    return u, v


def _linear(
    cfg: Config, workspace: Workspace, features: Any, trees: bool = False
) -> dict[str, float]:
    """Logistic (or ridge) regression with its usual penalty, or boosted trees as they come."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import MaxAbsScaler

    kind = cfg.data.pair_task.kind

    def fit(train: PairSet, tests: Sequence[PairSet]) -> list[np.ndarray]:
        vocabulary = TfidfVectorizer(analyzer=_grams, min_df=2, sublinear_tf=True)
        vocabulary.fit(train.second)
        scaler = MaxAbsScaler()
        x = scaler.fit_transform(features(vocabulary, train))
        if kind == "regression":
            model = HistGradientBoostingRegressor(random_state=cfg.seed) if trees else Ridge()
        elif trees:
            model = HistGradientBoostingClassifier(random_state=cfg.seed)
        else:
            model = LogisticRegression(max_iter=1000)
        model.fit(x, train.labels)
        columns = []
        for test in tests:
            rows = scaler.transform(features(vocabulary, test))
            out = model.predict(rows) if kind == "regression" else model.decision_function(rows)
            columns.append(out[:, None] if out.ndim == 1 else out)
        return columns

    return _scored(cfg, workspace, fit)


def _grams(text: str) -> list[str]:
    unigrams = list(words(text))
    return unigrams + [f"{a} {b}" for a, b in pairwise(unigrams)]


def _scored(cfg: Config, workspace: Workspace, fit: Any) -> dict[str, float]:
    task = cfg.data.pair_task
    train = task_pairs(cfg.data, "train", cfg.seed)
    tests = [task_pairs(cfg.data, part, cfg.seed) for part in cfg.eval.parts]
    metrics: dict[str, float] = {}
    for part, data, logits in zip(cfg.eval.parts, tests, fit(train, tests), strict=True):
        if task.kind == "binary" and logits.shape[1] == 2:
            logits = logits[:, 1:] - logits[:, :1]
        scores = score_pair_task(logits, data.labels, task.kind, cfg.eval.thresholds)
        save_items(workspace, part, logits, data.labels, task.kind, cfg.eval.thresholds[0])
        metrics |= {f"{part}_{name}": value for name, value in scores.items()}
    return metrics
