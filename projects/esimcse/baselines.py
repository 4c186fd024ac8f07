"""What ESimCSE has to beat: word overlap, and the encoder that it starts from, post-processed."""

from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from common.families.sentences.baselines import jaccard, raw, raw_mean, tfidf, untrained
from projects.esimcse.config import Config
from projects.esimcse.data import training_rows

__all__ = [
    "centred",
    "jaccard",
    "raw",
    "raw_mean",
    "tfidf",
    "untrained",
    "whitened",
    "whitened_mean",
]


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw` minus its mean over the sentences that the arms train on."""
    return family.centred(cfg, workspace, _texts(cfg))


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw`, whitened on the sentences that the arms train on."""
    return family.whitened(cfg, workspace, _texts(cfg))


def whitened_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`whitened`, of averaged states: whatever the config pools."""
    return family.whitened(family.with_pooling(cfg, "avg"), workspace, _texts(cfg))


def _texts(cfg: Config) -> list[str]:
    return [text for row in training_rows(cfg) for text in row]
