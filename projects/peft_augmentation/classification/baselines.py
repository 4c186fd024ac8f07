"""What a classifier of texts has to beat: the most frequent class, words, letters, frozen vectors."""

from common.encoders.text.tuned.classifier import text_classifier
from common.engine.workspace import Workspace
from common.evaluation.text.class_baselines import (
    Fit,
    letters_fit,
    majority_fit,
    vectors_fit,
    words_fit,
)
from common.evaluation.text.classes import score_classes
from projects.peft_augmentation.classification.evaluation import copies_of
from projects.peft_augmentation.classification.module import labelled_parts, scored_part
from projects.peft_augmentation.classification.protocol import ClassificationConfig


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
