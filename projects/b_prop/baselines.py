"""What pre-training has to beat: the first stage, words, chance, and the encoder without it.

Orders without training stand under both names of the table, as they are and ``tuned_``: there is
nothing in them that judged queries could change. The rows ``words_*`` look at words alone, which no
training changes.
"""

from dataclasses import replace

from common.engine.workspace import Workspace
from projects.b_prop.config import Config, Distribution
from projects.b_prop.evaluate import (
    evaluation_sets,
    lexical_runs,
    score_ranker,
    score_runs,
    word_quality,
)
from projects.b_prop.stages import at_start


def _order(cfg: Config, workspace: Workspace, row: str) -> dict[str, float]:
    sets = evaluation_sets(cfg)
    runs = lexical_runs(cfg, sets)[row]
    plain = score_runs(sets, runs, "", workspace)
    return plain | score_runs(sets, runs, "tuned_", workspace)


def bm25(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The first stage."""
    return _order(cfg, workspace, "bm25_")


def query_likelihood(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Dirichlet-smoothed query likelihood, what PROP learns from."""
    return _order(cfg, workspace, "ql_")


def shared_words(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Number of words that query and document share."""
    return _order(cfg, workspace, "overlap_")


def random_order(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The candidates in random order."""
    return _order(cfg, workspace, "random_")


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder without this pre-training: a new head, fine-tuned as the others are."""
    return score_ranker(cfg, at_start(cfg), evaluation_sets(cfg), workspace)


def words_attention(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The likeliest words by attention without contrast."""
    return _words(cfg, workspace, "attention")


def words_entropy(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The likeliest words of B-PROP."""
    return _words(cfg, workspace, "entropy")


def words_subtract(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The likeliest words of B-PROP's other contrast."""
    return _words(cfg, workspace, "subtract")


def words_unigram(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The likeliest words of PROP, stop words left out."""
    return _words(cfg, workspace, "unigram")


def words_tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Count times inverse document frequency, which needs no attention."""
    return _words(cfg, workspace, "entropy", tfidf=True)


def _words(
    cfg: Config, workspace: Workspace, kind: Distribution, tfidf: bool = False
) -> dict[str, float]:
    changed = replace(cfg, words=replace(cfg.words, distribution=kind))
    return word_quality(changed, workspace, tfidf)
