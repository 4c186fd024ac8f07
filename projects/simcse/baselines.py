"""What SimCSE has to beat: word overlap, and the encoder that it starts from, post-processed.

`raw`, `centred` and `whitened` average the states of layer 1 and of the last, as the released code
does now; the paper's rows take the embedding output and the last.
"""

from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from common.families.sentences.baselines import (
    jaccard,
    raw_mean,
    tfidf,
    untrained,
    whitened_mean,
    with_pooling,
)
from projects.simcse.config import Config

__all__ = [
    "centred",
    "jaccard",
    "raw",
    "raw_cls",
    "raw_mean",
    "tfidf",
    "untrained",
    "whitened",
    "whitened_mean",
]


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training, layer 1 and last averaged (the released code's BERT row)."""
    return family.raw(with_pooling(cfg, "avg_first_last"), workspace)


def raw_cls(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from, its [CLS] state, which the arms train."""
    return family.raw(with_pooling(cfg, "cls_before_pooler"), workspace)


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw` minus its mean over training texts."""
    return family.centred(with_pooling(cfg, "avg_first_last"), workspace)


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """`raw`, whitened on training texts."""
    return family.whitened(with_pooling(cfg, "avg_first_last"), workspace)
