"""What a classifier of texts has to beat: the most frequent class, words, letters, frozen vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.modes import evaluated
from common.encoders.text.tuned.classifier import TextClassifier, text_classifier
from common.engine.workspace import Workspace
from common.evaluation.text.classes import score_classes
from common.families.classification.evaluation import copies_of
from common.families.classification.module import labelled_parts, scored_part
from common.families.classification.protocol import ClassificationConfig

Told = Callable[[Sequence[Texts]], np.ndarray]  # texts -> classes
Fit = Callable[[LabelledSet], Told]


def majority(cfg: ClassificationConfig, workspace: Workspace) -> dict[str, float]:
    """The most frequent class of the training examples."""
    return fitted(cfg, workspace, majority_fit)


def tfidf_words(cfg: ClassificationConfig, workspace: Workspace) -> dict[str, float]:
    """Logistic regression on TF-IDF weights of words."""
    return fitted(cfg, workspace, words_fit())


def tfidf_chars(cfg: ClassificationConfig, workspace: Workspace) -> dict[str, float]:
    """The same on pieces of two to five letters within words."""
    return fitted(cfg, workspace, letters_fit())


def frozen_linear(cfg: ClassificationConfig, workspace: Workspace) -> dict[str, float]:
    """The same on the mean states of the encoder before training."""
    own = cfg.model
    encoder = text_classifier(
        own.pretrained, ("a", "b"), config=own.config, pooling="mean", max_length=own.max_length
    )

    return fitted(cfg, workspace, vectors_fit(encoder, cfg))


def fitted(cfg: ClassificationConfig, workspace: Workspace, fit: Fit) -> dict[str, float]:
    """Scores of a baseline on the test part and its altered copies, with items."""
    predict, test = fit(labelled_parts(cfg.data, cfg.seed)[0]), scored_part(cfg)
    metrics: dict[str, float] = {}
    for suffix, texts in copies_of(test, cfg.data.labelled_task, cfg.eval.alterations).items():
        told = predict(texts)
        found = score_classes(told, test.labels, len(test.classes))
        metrics |= {f"{cfg.eval.part}_{name}{suffix}": value for name, value in found.items()}
        workspace.items(
            f"{cfg.eval.part}_accuracy{suffix}", (told == test.labels).astype(float).tolist()
        )
    return metrics


# -- what is fitted ------------------------------------------------------------------------------


def majority_fit(train: LabelledSet) -> Told:
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
    """Logistic regression on vectors of an encoder that stays as it is.

    Args:
        encoder: gives the vectors.
        cfg: has ``trainer.accelerator`` and ``eval.batch_size``.
    """

    def fit(train: LabelledSet) -> Told:
        def features(texts: Sequence[Texts]) -> np.ndarray:
            with evaluated(encoder, cfg.trainer.accelerator):
                return encoder.encode(texts, cfg.eval.batch_size).numpy()

        model = _regression().fit(features(train.texts), train.labels)
        return lambda texts: model.predict(features(texts))

    return fit


def _tfidf(**options: Any) -> Fit:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def fit(train: LabelledSet) -> Told:
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
