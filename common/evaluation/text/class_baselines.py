"""Training-free classifiers of texts: the most frequent class, words, letters, vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.modes import evaluated
from common.encoders.text.tuned.classifier import TextClassifier

Classify = Callable[[Sequence[Texts]], np.ndarray]  # texts -> classes
Fit = Callable[[LabelledSet], Classify]


def majority_fit(train: LabelledSet) -> Classify:
    """The most frequent class of the labels that are given."""
    most = np.bincount(train.labels).argmax()
    return lambda texts: np.full(len(texts), most)


def words_fit() -> Fit:
    """Logistic regression on TF-IDF weights of words."""
    return _tfidf(analyzer="word", token_pattern=r"(?u)\b\w+\b")


def letters_fit() -> Fit:
    """Logistic regression on TF-IDF weights of pieces of two to five letters within words."""
    return _tfidf(analyzer="char_wb", ngram_range=(2, 5))


def vectors_fit(encoder: TextClassifier, cfg: Any) -> Fit:
    """Logistic regression on vectors of a frozen encoder.

    Args:
        encoder: gives the vectors.
        cfg: has ``trainer.accelerator`` and ``eval.batch_size``.
    """

    def fit(train: LabelledSet) -> Classify:
        def features(texts: Sequence[Texts]) -> np.ndarray:
            with evaluated(encoder, cfg.trainer.accelerator):
                return encoder.encode(texts, cfg.eval.batch_size).numpy()

        model = _regression().fit(features(train.texts), train.labels)
        return lambda texts: model.predict(features(texts))

    return fit


def _tfidf(**options: Any) -> Fit:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def fit(train: LabelledSet) -> Classify:
        vocabulary = TfidfVectorizer(sublinear_tf=True, **options)
        model = _regression().fit(vocabulary.fit_transform(_joined(train.texts)), train.labels)
        return lambda texts: model.predict(vocabulary.transform(_joined(texts)))

    return fit


def _joined(texts: Sequence[Texts]) -> list[str]:
    return [" ".join(row) for row in texts]


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    return make_pipeline(MaxAbsScaler(), LogisticRegression(C=10.0, max_iter=1000))
