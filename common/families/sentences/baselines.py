"""Baselines of sentence experiments that need no training: overlap, TF-IDF, the raw encoder.

A project names them in its ``baselines.py``; each scores the STS sets of its config.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.data.samplers import drawn_rows
from common.data.text.sets import StsSet
from common.encoders.modes import untrained as as_training_begins
from common.encoders.text.pooling import Pooling
from common.encoders.text.sentence import SentenceEncoder
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import EmbeddingTransform, fit_whitening
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.evaluation.text.sts_protocol import evaluate_sts, score_sts
from common.families.sentences.data import sts_set, text_rows
from common.families.sentences.evaluation import (
    encoding,
    save_sts_items,
    sentence_geometry,
    untrained_encoder,
)
from common.families.sentences.module import build_encoder
from common.families.sentences.protocol import SentenceExperimentConfig

FIT_TEXTS = 5_000  # training texts, at most, that centre and whitening are fitted on
ORDER = 83  # stream of their draw
RIDGE = 1e-6  # whitening of an encoder whose embeddings don't span its dimensions

Config = SentenceExperimentConfig
Encode = Callable[[list[str]], Tensor]


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Overlap of the word sets."""
    return _similarities(cfg, workspace, word_overlap)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors; document frequencies from the set itself."""
    return _similarities(cfg, workspace, tfidf_cosine)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from."""
    return _encoder(cfg, workspace, untrained_encoder(cfg))


def centred(
    cfg: Config, workspace: Workspace, texts: Sequence[str] | None = None
) -> dict[str, float]:
    """The encoder that training starts from, minus its mean over training texts.

    Args:
        cfg: the project's config.
        workspace: of the run.
        texts: what the arms train on, from all of which as many as a fit takes are drawn; None:
            the first ones of `text_rows`.
    """

    def fit(embeddings: Tensor) -> EmbeddingTransform:
        mean = embeddings.double().mean(dim=0)
        return EmbeddingTransform(mean, torch.eye(len(mean), dtype=torch.float64))

    return _encoder(cfg, workspace, untrained_encoder(cfg), fit, texts)


def whitened(
    cfg: Config, workspace: Workspace, texts: Sequence[str] | None = None
) -> dict[str, float]:
    """The encoder that training starts from, whitened on training texts (see `centred`).

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.
    """

    def fit(embeddings: Tensor) -> EmbeddingTransform:
        return fit_whitening(embeddings, ridge=RIDGE)

    return _encoder(cfg, workspace, untrained_encoder(cfg), fit, texts)


def raw_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw`, of averaged states: whatever the config pools."""
    return raw(with_pooling(cfg, "avg"), workspace)


def whitened_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`whitened`, of averaged states: whatever the config pools."""
    return whitened(with_pooling(cfg, "avg"), workspace)


def with_pooling(cfg: Config, pooling: Pooling) -> Config:
    """A config whose encoder pools otherwise, without head."""
    model = replace(cfg.model, pooling=pooling, mlp_only_train=False)
    changed: Config = replace(cfg, model=model)  # type: ignore[type-var]
    return changed


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder's architecture with random weights."""
    model = replace(cfg.model, random_init=True)
    return _encoder(cfg, workspace, as_training_begins(lambda: build_encoder(model), cfg.seed))


def _similarities(
    cfg: Config,
    workspace: Workspace,
    similarity: Callable[[Sequence[str], Sequence[str]], list[float]],
) -> dict[str, float]:
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    scores = {name: similarity(data.first, data.second) for name, data in sets.items()}
    save_sts_items(workspace, sets, scores)
    return score_sts(sets, scores)


def _encoder(
    cfg: Config,
    workspace: Workspace,
    encoder: SentenceEncoder,
    fit: Callable[[Tensor], EmbeddingTransform] | None = None,
    texts: Sequence[str] | None = None,
) -> dict[str, float]:
    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    with encoding(cfg, encoder) as plain:
        encode: Encode = plain
        if fit is not None:
            transform = fit(plain(fit_texts(cfg, texts)))
            encode = lambda rows: transform(plain(rows))  # noqa: E731
        return _score(sets, encode, sets[cfg.eval.sets[0]], workspace)


def fit_texts(cfg: Config, texts: Sequence[str] | None) -> list[str]:
    """The distinct texts that centre and whitening are fitted on, see `centred`."""
    if texts is None:
        first = (text for row in text_rows(cfg.data, cfg.seed) for text in row)
        return list(dict.fromkeys(first))[:FIT_TEXTS]
    distinct = list(dict.fromkeys(texts))
    return [
        distinct[i]
        for i in drawn_rows(len(distinct), min(FIT_TEXTS, len(distinct)), cfg.seed, ORDER, "texts")
    ]


def _score(
    sets: dict[str, StsSet], encode: Encode, primary: StsSet, workspace: Workspace
) -> dict[str, float]:
    metrics, cosines = evaluate_sts(encode, sets)
    save_sts_items(workspace, sets, cosines)
    return metrics | sentence_geometry(encode, primary)
