"""What MultiCSR has to beat: words, its judge alone, the first encoder post-processed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.encoders.modes import untrained as as_training_begins
from common.encoders.text.sentence import SentenceEncoder
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import EmbeddingTransform, fit_whitening
from common.evaluation.retrieval.runs import lexical_run
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.evaluation.text.sts_protocol import score_sts
from common.families.sentences import baselines
from common.families.sentences.baselines import FIT_TEXTS, RIDGE
from common.families.sentences.data import sts_set
from common.families.sentences.evaluation import encoding, save_sts_items, untrained_encoder
from common.families.sentences.module import build_encoder
from projects.multicsr.config import Config
from projects.multicsr.data import triplet_rows
from projects.multicsr.evaluate import (
    further_metrics,
    held_back,
    nearer,
    retrieval_metrics,
    triplet_metrics,
)
from projects.multicsr.judges import word_grades


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Overlap of the word sets."""
    return baselines.jaccard(cfg, workspace) | _triplets(cfg, workspace, word_overlap)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors, also as a search."""
    metrics = baselines.tfidf(cfg, workspace) | _triplets(cfg, workspace, tfidf_cosine)
    return metrics | retrieval_metrics(cfg, lambda data: lexical_run(data, "tfidf"), workspace)


def bm25(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """BM25, of the sets of retrieval alone."""
    return retrieval_metrics(cfg, lambda data: lexical_run(data, "bm25"), workspace)


def judge(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The grades of the mini's judge as similarities: what its labels give without a student."""
    graded = word_grades(cfg.data.root)

    def similarity(first: Sequence[str], second: Sequence[str]) -> list[float]:
        return [grade or 0.0 for grade in graded(list(zip(first, second, strict=True)))]

    sets = {name: sts_set(cfg, name) for name in cfg.eval.sets}
    cosines = {name: similarity(data.first, data.second) for name, data in sets.items()}
    save_sts_items(workspace, sets, cosines)
    return score_sts(sets, cosines) | _triplets(cfg, workspace, similarity)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from."""
    return baselines.raw(cfg, workspace) | _further(cfg, workspace, untrained_encoder(cfg))


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder's architecture with random weights."""
    model = replace(cfg.model, random_init=True)
    encoder = as_training_begins(lambda: build_encoder(model), cfg.seed)
    return baselines.untrained(cfg, workspace) | _further(cfg, workspace, encoder)


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from, minus its mean over the triplets' texts."""

    def fit(embeddings: Tensor) -> EmbeddingTransform:
        mean = embeddings.double().mean(dim=0)
        return EmbeddingTransform(mean, torch.eye(len(mean), dtype=torch.float64))

    metrics = baselines.centred(cfg, workspace, _texts(cfg))
    return metrics | _further(cfg, workspace, untrained_encoder(cfg), fit)


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from, whitened on the triplets' texts."""

    def fit(embeddings: Tensor) -> EmbeddingTransform:
        return fit_whitening(embeddings, ridge=RIDGE)

    metrics = baselines.whitened(cfg, workspace, _texts(cfg))
    return metrics | _further(cfg, workspace, untrained_encoder(cfg), fit)


def _further(
    cfg: Config,
    workspace: Workspace,
    encoder: SentenceEncoder,
    fit: Callable[[Tensor], EmbeddingTransform] | None = None,
) -> dict[str, float]:
    """Held-back triplets and retrieval by an encoder, or a map of it fitted on training texts."""
    with encoding(cfg, encoder) as plain:
        if fit is None:
            return further_metrics(cfg, plain, workspace)
        transform = fit(plain(_texts(cfg)))
        return further_metrics(cfg, lambda texts: transform(plain(texts)), workspace)


def _triplets(
    cfg: Config,
    workspace: Workspace,
    similarity: Callable[[Sequence[str], Sequence[str]], list[float]],
) -> dict[str, float]:
    if not cfg.eval.triplets:
        return {}
    premises, positives, negatives = held_back(cfg)
    # at once, so that both sides have the same document frequencies
    cosines = similarity([*premises, *premises], [*positives, *negatives])
    return triplet_metrics(nearer(cosines[: len(premises)], cosines[len(premises) :]), workspace)


def _texts(cfg: Config) -> list[str]:
    """As many as a fit takes, the first ones."""
    texts = dict.fromkeys(text for row in triplet_rows(cfg) for text in row.triplet.texts)
    return list(texts)[:FIT_TEXTS]
