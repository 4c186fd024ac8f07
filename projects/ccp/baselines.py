"""What CCP has to beat: words, and the encoder before training."""

from functools import partial

from common.config import UserError
from common.encoders.modes import evaluated
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.runs import lexical_run
from projects.ccp.config import Config
from projects.ccp.data import heldout_documents
from projects.ccp.evaluate import (
    NEIGHBOURS,
    K,
    bitext,
    neighbour_lists,
    neighbour_queries,
    neighbours,
)
from projects.ccp.towers import recipe_of

__all__ = ["tfidf", "untrained", "whitened"]


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Neighbours by the cosine of TF-IDF vectors of words.

    Raises:
        UserError: the config asks for no neighbours.
    """
    documents = heldout_documents(cfg)
    if not documents or not cfg.eval.neighbour_queries:
        raise UserError(
            "this baseline finds neighbours: it needs eval.neighbour_queries, and held-out documents"
            f" of data.source=bundled or synthetic, not {cfg.data.source}"
        )
    corpus = {str(i): s for i, s in enumerate(s for document in documents for s in document)}
    asked = [str(i) for i in neighbour_queries(documents, cfg.eval.neighbour_queries)]
    right = neighbour_lists(documents, cfg.eval.neighbour_window)
    data = RetrievalSet(corpus, {i: corpus[i] for i in asked}, {})
    run = lexical_run(data, "tfidf", depth=K)
    hits = [float(bool(right[int(q)] & {int(d) for d in run[q]})) for q in asked]
    workspace.items(NEIGHBOURS, hits)
    return {NEIGHBOURS: sum(hits) / len(hits)}


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training: neighbours and bitext."""
    towers = as_training_begins(recipe_of(cfg).build, cfg.seed)
    with evaluated(towers, cfg.trainer.accelerator):
        return neighbours(cfg, towers, workspace) | bitext(cfg, towers, workspace)


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Neighbours of the untrained encoder, whitened by training sentences."""
    towers = as_training_begins(recipe_of(cfg).build, cfg.seed)
    with evaluated(towers, cfg.trainer.accelerator):
        return neighbours(cfg, towers, workspace, {NEIGHBOURS: partial(fit_whitening, ridge=1e-6)})
