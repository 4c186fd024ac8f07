"""``eval.own`` of sentence projects: labelled texts, classified by a regression on embeddings."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from common.data.text.labelled.own_texts import OwnTexts, load_own_texts
from common.data.text.labelled.readers import LabelledSet
from common.engine.workspace import Workspace
from common.evaluation.gallery import same_class_gallery
from common.evaluation.text.class_baselines import majority_fit, words_fit
from common.evaluation.text.sts_protocol import Encode
from common.evaluation.text.transfer import (
    SPLIT_SEED,
    LabelledTexts,
    TransferTask,
    evaluate_transfer,
    stratified_folds,
)
from common.families.sentences.evaluation import encoding, untrained_encoder
from common.families.sentences.module import SentenceModule
from common.families.sentences.protocol import SentenceExperimentConfig

FOLDS, LEAST = 5, 4  # of the cross-validation, at most; texts of a class, at least
SHOWN = 1000  # texts among which the gallery finds neighbours
TASK = "own"


def judge_labelled_texts(
    cfg: SentenceExperimentConfig, module: SentenceModule, workspace: Workspace, path: Path
) -> dict[str, float]:
    """Cross-validated accuracy of a logistic regression on frozen embeddings of a user's texts.

    Args:
        cfg: the experiment's config.
        module: holds the trained encoder.
        workspace: takes a gallery of nearest texts, and notes what was left out.
        path: see `load_own_texts`.

    Returns:
        ``num_texts``, ``num_classes`` and ``num_skipped``; ``accuracy`` with ``_chance``,
        ``untrained_accuracy``, and ``tfidf_accuracy`` of a regression on words in the same folds.

    Raises:
        UserError: see `load_own_texts`.
    """
    data = load_own_texts(path, LEAST)
    folds = _folds(data)
    if data.num_skipped or data.rare:
        rare = ", ".join(f"{label} ({count})" for label, count in data.rare.items())
        left_out = f"; classes of fewer than {LEAST} texts are left out: {rare}" if rare else ""
        workspace.say(f"{path.name}: {data.num_skipped} rows have no text or no label{left_out}")

    def accuracy(encode: Encode) -> dict[str, float]:
        task = TransferTask(TASK, LabelledTexts(data.texts, data.labels))
        values = evaluate_transfer(encode, {TASK: task}, folds=folds)
        names = ("accuracy", "accuracy_chance")
        return {name: values[f"{TASK}_{name}"] for name in names}

    metrics = {
        "num_texts": float(len(data.texts)),
        "num_classes": float(len(data.classes)),
        "num_skipped": float(data.num_skipped + sum(data.rare.values())),
    }
    with encoding(cfg, module.encoder) as encode:
        metrics |= accuracy(encode)
        step = max(1, len(data.texts) // SHOWN)
        texts, labels = data.texts[::step], data.labels[::step]
        unit = F.normalize(encode(texts), dim=1)
        workspace.gallery("nearest texts", same_class_gallery(unit @ unit.T, texts, labels))
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            metrics["untrained_accuracy"] = accuracy(encode)["accuracy"]
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
