"""What NewProject has to beat: words, and the encoder before training, raw and whitened."""

from common.engine.workspace import Workspace
from common.families.retrieval import baselines as family
from common.families.retrieval.baselines import bm25, tfidf
from projects.new_project.config import Config
from projects.new_project.stages import recipe_of

__all__ = ["bm25", "tfidf", "untrained", "whitened"]


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training."""
    return family.untrained(cfg, recipe_of(cfg), workspace)


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The same, whitened on the documents of each set."""
    return family.whitened(cfg, recipe_of(cfg), workspace)
