"""Training-free baselines of retrieval: words, LSA, the encoder before training.

A project names them in its ``baselines.py``; each scores the sets of ``eval.beir``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import dense_run, lexical_run, run_scores, tfidf_vectors
from common.families.retrieval.encoder import E, EncoderRecipe
from common.families.retrieval.evaluation import (
    average_scores,
    encoder_run,
    keep_scores,
    load_set,
    named_sets,
)
from common.families.retrieval.protocol import RetrievalExperimentConfig as Config
from common.families.retrieval.sets import set_counts

RIDGE = 1e-6  # whitening of an encoder whose vectors don't span its dimensions
LSA_DIM = 128


def score_sets(
    cfg: Config, workspace: Workspace, rank: Callable[[RetrievalSet], Run]
) -> dict[str, float]:
    """Metrics and items of a ranking on every set, and their averages, named as the method's own.

    Args:
        cfg: the project's config.
        workspace: of the baseline.
        rank: a set -> its ranking.
    """
    names, metrics = named_sets(cfg.eval)[0], dict[str, float]()  # as the evaluation calls them
    for place, name in names.items():
        data = load_set(cfg, place)
        metrics |= set_counts(data, name, workspace)
        metrics |= keep_scores(run_scores(data, rank(data)), "", name, workspace)
    if len(names) > 1:
        metrics |= average_scores(list(names.values()), metrics, "", "average", workspace)
    return metrics


def bm25(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """BM25."""
    return score_sets(cfg, workspace, lambda data: lexical_run(data, "bm25"))


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors."""
    return score_sets(cfg, workspace, lambda data: lexical_run(data, "tfidf"))


def lsa(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """TF-IDF vectors of the documents in their first singular directions.

    Source: Deerwester et al. 1990, "Indexing by latent semantic analysis".
    """

    def rank(data: RetrievalSet) -> Run:
        from sklearn.decomposition import TruncatedSVD

        table, vectors = tfidf_vectors(list(data.corpus.values()), sublinear_tf=True)
        size = min(LSA_DIM, *(n - 1 for n in table.shape))
        svd = TruncatedSVD(size, random_state=0).fit(table)

        def encode(texts: list[str]) -> Tensor:
            return torch.from_numpy(svd.transform(vectors(texts))).float()

        return dense_run(data, encode, encode)

    return score_sets(cfg, workspace, rank)


def untrained(cfg: Config, recipe: EncoderRecipe[E], workspace: Workspace) -> dict[str, float]:
    """The encoder before training: other random parts than those that training begins with."""
    encoder = as_training_begins(recipe.build, cfg.seed)
    with evaluated(encoder, cfg.trainer.accelerator):
        return score_sets(cfg, workspace, lambda data: encoder_run(cfg, recipe, encoder, data))


def whitened(cfg: Config, recipe: EncoderRecipe[E], workspace: Workspace) -> dict[str, float]:
    """The same, whitened on the documents of each set; queries by the same map, under the cosine.

    Source: Su et al. 2021, "Whitening Sentence Representations", arXiv 2103.15316.
    """
    encoder = as_training_begins(recipe.build, cfg.seed)

    def rank(data: RetrievalSet) -> Run:
        documents = recipe.documents(encoder, list(data.corpus.values()))
        transform = fit_whitening(documents, ridge=RIDGE)
        return dense_run(
            data,
            lambda texts: transform(recipe.queries(encoder, texts)),
            lambda _: transform(documents),
        )

    with evaluated(encoder, cfg.trainer.accelerator):
        return score_sets(cfg, workspace, rank)
