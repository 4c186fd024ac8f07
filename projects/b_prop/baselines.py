"""What pre-training has to beat: the first stage, words, chance, and the encoder without it.

Orders without training stand under both names of the table, as they are and ``tuned_``: there is
nothing in them that judged queries could change.
"""

from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.b_prop.config import Config
from projects.b_prop.evaluate import evaluation_sets, lexical_runs, score_ranker, score_runs
from projects.b_prop.stages import build_ranker


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
    """The encoder without any of this pre-training: a new head, and fine-tuned as the others are."""
    ranker = as_training_begins(lambda: build_ranker(cfg), cfg.seed)
    return score_ranker(cfg, ranker, evaluation_sets(cfg), workspace)
