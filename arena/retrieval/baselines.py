"""What a contestant has to beat without training: words, LSA, the encoder before it."""

from arena.retrieval.config import Config
from arena.retrieval.data import recipe_of
from common.engine.workspace import Workspace
from common.families.retrieval import baselines as family
from common.families.retrieval.baselines import bm25, lsa, tfidf

__all__ = ["bm25", "lsa", "tfidf", "untrained"]


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training."""
    return family.untrained(cfg, recipe_of(cfg), workspace)
