"""What DefSent+ has to beat: word overlap, TF-IDF, and the first encoder, post-processed."""

import torch

from common.data.splits import stable_fraction
from common.data.text.lexical import words
from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from common.families.sentences.baselines import jaccard, raw, untrained
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import load_dictionary
from projects.defsent_plus.evaluate import reverse_metrics

__all__ = ["centred", "jaccard", "raw", "tfidf", "untrained", "whitened"]


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """M_0 minus its mean over the definitions that are trained on."""
    return family.centred(cfg, workspace, definitions(cfg))


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """M_0, whitened on the definitions that are trained on."""
    return family.whitened(cfg, workspace, definitions(cfg))


def definitions(cfg: Config) -> list[str]:
    """As many as a fit takes of the distinct training definitions: the same for every seed."""
    texts = {text for text, _ in load_dictionary(cfg).pairs()}
    shuffled = sorted(texts, key=lambda text: (stable_fraction(f"baseline {text}"), text))
    return shuffled[: family.FIT_TEXTS]


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors; as reverse dictionary, the entry of the nearest definition."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    metrics = family.tfidf(cfg, workspace)
    dictionary = load_dictionary(cfg)
    if not dictionary.held_out:
        return metrics
    texts, rows = zip(*dictionary.pairs(), strict=True)
    vectors = TfidfVectorizer(analyzer=words).fit([*texts])
    queries = vectors.transform([text for text, _ in dictionary.held_out])
    cosines = torch.from_numpy((queries @ vectors.transform(texts).T).toarray()).float()
    scores = torch.full((len(dictionary.held_out), len(dictionary.entries)), -1.0)
    scores.index_reduce_(1, torch.tensor(rows), cosines, "amax")
    return metrics | reverse_metrics(scores, [gold for _, gold in dictionary.held_out])
