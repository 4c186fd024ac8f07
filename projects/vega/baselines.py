"""Baselines: the most frequent class, words, letters, frozen vectors, raw encoders."""

from collections.abc import Callable
from typing import Any

import numpy as np

from common.config import UserError
from common.encoders.text.tuned.classifier import text_classifier
from common.engine.workspace import Workspace
from common.evaluation.text.class_baselines import (
    Fit,
    letters_fit,
    majority_fit,
    vectors_fit,
    words_fit,
)
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.evaluation.text.sts_protocol import score_sts
from common.families.sentences.evaluation import save_sts_items
from projects.vega import pretraining as pre
from projects.vega.config import Config
from projects.vega.evaluate import evaluate, score_part, scored_parts
from projects.vega.module import FineTune
from projects.vega.network import first_classifier, first_pretraining, tokenizer_of
from projects.vega.phases import Pretrain
from projects.vega.stages import training_part


def majority(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The most frequent class of the (noisy) training labels."""
    return _fitted(cfg, workspace, majority_fit)


def tfidf_words(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Logistic regression on TF-IDF weights of words, trained on the same (noisy) labels."""
    return _fitted(cfg, workspace, words_fit())


def tfidf_chars(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same on pieces of two to five letters within words."""
    return _fitted(cfg, workspace, letters_fit())


def frozen_linear(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same on the mean states of the encoder before training."""
    encoder = text_classifier(
        cfg.model.pretrained, ("a", "b"), pooling="mean", max_length=cfg.model.max_length
    )

    return _fitted(cfg, workspace, vectors_fit(encoder, cfg))


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The classifier before its first step."""
    return evaluate(cfg, FineTune(cfg, first_classifier(cfg)), workspace)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pre-training: generator and discriminator before their first step."""
    module = Pretrain(cfg, first_pretraining(cfg), tokenizer_of(cfg.model), 1)
    return pre.evaluate(cfg, module.eval(), workspace)


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pre-training: overlap of the word sets."""
    return _similarities(cfg, workspace, word_overlap)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pre-training: cosine of TF-IDF vectors; document frequencies from the set itself."""
    return _similarities(cfg, workspace, tfidf_cosine)


def _similarities(
    cfg: Config, workspace: Workspace, measure: Callable[..., Any]
) -> dict[str, float]:
    sets = {name: pre.sts_set(cfg, name) for name in cfg.eval.sets}
    similarities = {
        name: list(map(float, measure(data.first, data.second))) for name, data in sets.items()
    }
    save_sts_items(workspace, sets, similarities)
    return score_sts(sets, similarities)


def _fitted(cfg: Config, workspace: Workspace, fit: Fit) -> dict[str, float]:
    """Scores of a baseline, which is fitted on the training part of the config."""
    train = training_part(cfg)
    predict = fit(train)
    metrics: dict[str, float] = {}
    for part, data in scored_parts(cfg, workspace):
        predicted = np.asarray(predict(data.texts))
        sure = np.eye(len(train.classes))[predicted]
        metrics |= score_part(cfg, part, sure, data.labels, workspace)
    if not metrics:
        raise UserError(
            f"baselines need labels, which eval.part={cfg.eval.part} has not: set eval.part=dev"
        )
    return metrics
