"""What DebCSE has to beat: word overlap, and the encoder that it starts from, post-processed."""

from common.data.samplers import drawn_rows
from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from common.families.sentences.baselines import jaccard, raw, raw_mean, tfidf, untrained
from projects.debcse.config import Config
from projects.debcse.data import corpus

__all__ = ["centred", "jaccard", "raw", "raw_mean", "tfidf", "untrained", "whitened", "whitened_mean"]  # fmt: skip

ORDER = 83  # stream of the draw that centre and whitening are fitted on


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
    """As many as a fit takes, from all sources alike."""
    texts = corpus(cfg)
    kept = drawn_rows(len(texts), min(family.FIT_TEXTS, len(texts)), cfg.seed, ORDER, "texts")
    return [texts[i] for i in kept]
