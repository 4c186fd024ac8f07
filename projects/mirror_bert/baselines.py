"""What Mirror-BERT has to beat: words, characters, the raw encoder post-processed."""

import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from common.data.text.options import metric_prefix
from common.engine.workspace import Workspace
from common.families.sentences import baselines as family
from projects.mirror_bert.config import Config
from projects.mirror_bert.data import training_rows
from projects.mirror_bert.evaluate import LEVEL_SCORE
from projects.mirror_bert.lexicon import evaluate_titles, title_search


def jaccard(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Overlap of the word sets."""
    return _sentence_level(cfg, family.jaccard(cfg, workspace))


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors."""
    return _sentence_level(cfg, family.tfidf(cfg, workspace))


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder that training starts from; of released weights their published scores."""
    return _sentence_level(cfg, family.raw(cfg, workspace))


def centred(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The raw encoder minus its mean over the strings that the arms train on."""
    return _sentence_level(cfg, family.centred(cfg, workspace, _texts(cfg)))


def whitened(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The raw encoder, whitened on the strings that the arms train on."""
    return _sentence_level(cfg, family.whitened(cfg, workspace, _texts(cfg)))


def tfidf_chars(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Job titles alone: cosine of TF-IDF vectors of 3 to 5 characters, idf of the gallery."""
    if cfg.eval.titles == "none":
        return {}
    task = title_search(cfg.data.root, cfg.eval.titles, cfg.eval.num_titles)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5)).fit(task.gallery)
    similar = vectors.transform(task.queries) @ vectors.transform(task.gallery).T
    # rows of cosines alongside unit vectors: what vectors of a dimension for each title would give
    rows = {id(task.queries): torch.from_numpy(similar.toarray()).float()}
    metrics, hits = evaluate_titles(
        lambda texts: rows.get(id(texts), torch.eye(len(task.gallery))), task
    )
    workspace.items("esco_recall_at_1", hits)
    return metrics


def _texts(cfg: Config) -> list[str]:
    return [text for row in training_rows(cfg) for text in row]


def _sentence_level(cfg: Config, metrics: dict[str, float]) -> dict[str, float]:
    return metrics | {LEVEL_SCORE: metrics[f"{metric_prefix(cfg.eval.sets[0])}_spearman"]}
