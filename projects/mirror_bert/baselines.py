"""What Mirror-BERT has to beat without training: words, characters, the raw encoder post-processed."""

from collections.abc import Callable

from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from projects.mirror_bert.config import Config
from projects.mirror_bert.evaluate import LEVEL_SCORE


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Overlap of the word sets."""
    return _sentence_level(family.jaccard, cfg, workspace)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors."""
    return _sentence_level(family.tfidf, cfg, workspace)


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The raw encoder minus its mean over training texts."""
    return _sentence_level(family.centred, cfg, workspace)


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The raw encoder, whitened on training texts."""
    return _sentence_level(family.whitened, cfg, workspace)


def _sentence_level(
    score: Callable[[Config, Workspace], dict[str, float]], cfg: Config, workspace: Workspace
) -> dict[str, float]:
    metrics = score(cfg, workspace)
    return metrics | {LEVEL_SCORE: metrics["stsb_test_spearman"]}
