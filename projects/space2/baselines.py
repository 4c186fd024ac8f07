"""Baselines of SPACE-2's cosines: shared words, TF-IDF, states of the raw encoder."""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn import functional as F

from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from projects.space2.config import Config
from projects.space2.evaluate import HeldOut, evaluate, score_vectors
from projects.space2.module import Space2
from projects.space2.network import Space2Network, build_network

Vectors = Callable[[list[str]], Tensor]  # texts -> (N, d)


def word_overlap(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of the sets of words of two utterances."""
    return _texts(cfg, workspace, lambda texts: _tfidf(texts, binary=True, use_idf=False))


def tfidf_words(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF weights of words, fitted on the scored utterances."""
    return _texts(cfg, workspace, lambda texts: _tfidf(texts, sublinear_tf=True))


def tfidf_chars(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same of 2 to 4 letters."""
    return _texts(
        cfg,
        workspace,
        lambda texts: _tfidf(
            texts, sublinear_tf=True, analyzer="char_wb", token_pattern=None, ngram_range=(2, 4)
        ),
    )


def raw_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Mean last state of the untrained encoder over the current utterance."""
    network = _network(cfg)
    return _texts(cfg, workspace, lambda texts: _mean_states(network, texts))


def raw_whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same vectors, whitened on the scored utterances."""
    network = _network(cfg)

    def vectors(texts: list[str]) -> Tensor:
        x = _mean_states(network, texts)
        return fit_whitening(x, ridge=1e-3)(x)

    return _texts(cfg, workspace, vectors)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Sentence vectors and sub-spaces before the first step, with the context of the dialogue."""
    return evaluate(cfg, Space2(cfg, _network(cfg)), workspace)


def _network(cfg: Config) -> Space2Network:
    return as_training_begins(lambda: build_network(cfg), cfg.seed)


def _texts(cfg: Config, workspace: Workspace, make: Vectors) -> dict[str, float]:
    def vectors(held: HeldOut) -> dict[str, Tensor]:
        return {"": F.normalize(make(held.texts()), dim=-1)[:, None]}

    return score_vectors(cfg, vectors, workspace)


def _tfidf(texts: list[str], **options: Any) -> Tensor:
    matrix = TfidfVectorizer(**{"token_pattern": r"(?u)\b\w+\b", **options}).fit_transform(texts)
    return torch.from_numpy(matrix.toarray()).float()


def _mean_states(network: Space2Network, texts: list[str]) -> Tensor:
    vectors = []
    with torch.no_grad():
        rows = network.texts.texts(texts)
        for start in range(0, len(rows), 128):
            inputs = network.texts.pad(rows[start : start + 128])
            mask = inputs["attention_mask"][..., None]
            states = network.encoder(**inputs, sentence=False)
            vectors.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(vectors)
