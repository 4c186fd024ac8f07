"""What MultiCSR has to beat: word overlap, and the encoder that it starts from, post-processed."""

from collections.abc import Callable, Sequence

from common.engine.workspace import Workspace
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.families.sentences import baselines
from common.families.sentences.baselines import untrained
from common.families.sentences.evaluation import encoding, untrained_encoder
from projects.multicsr.config import Config
from projects.multicsr.data import triplet_rows
from projects.multicsr.evaluate import further_metrics, held_back

__all__ = ["centred", "jaccard", "raw", "tfidf", "untrained", "whitened"]


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Overlap of the word sets."""
    return baselines.jaccard(cfg, workspace) | _triplets(cfg, workspace, word_overlap)


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors."""
    return baselines.tfidf(cfg, workspace) | _triplets(cfg, workspace, tfidf_cosine)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from."""
    with encoding(cfg, untrained_encoder(cfg)) as encode:
        found = further_metrics(cfg, encode, workspace)
    return baselines.raw(cfg, workspace) | found


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from, minus its mean over the triplets' texts."""
    return baselines.centred(cfg, workspace, _texts(cfg))


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from, whitened on the triplets' texts."""
    return baselines.whitened(cfg, workspace, _texts(cfg))


def _triplets(
    cfg: Config,
    workspace: Workspace,
    similarity: Callable[[Sequence[str], Sequence[str]], list[float]],
) -> dict[str, float]:
    if not cfg.eval.triplets:
        return {}
    premises, positives, negatives = held_back(cfg)
    # at once, so that both sides have the same document frequencies
    found = similarity([*premises, *premises], [*positives, *negatives])
    count = len(premises)
    hits = [float(a > b) for a, b in zip(found[:count], found[count:], strict=True)]
    workspace.items("triplet_accuracy", hits)
    return {"triplet_accuracy": sum(hits) / count}


def _texts(cfg: Config) -> list[str]:
    return [text for row in triplet_rows(cfg) for text in row.triplet.texts]
