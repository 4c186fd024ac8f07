"""What the experts have to beat: words, and the model before training."""

from common.engine.workspace import Workspace
from projects.moe_embeddings.config import Config
from projects.moe_embeddings.data import load_pairs
from projects.moe_embeddings.evaluate import score_row, scores_of_untrained, tfidf_scores


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors of words."""
    pairs = load_pairs(cfg, cfg.eval.part)
    return score_row(cfg, tfidf_scores(pairs), pairs, workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The converted model before training: all experts are equal, the pooler is new."""
    pairs = load_pairs(cfg, cfg.eval.part)
    return score_row(cfg, scores_of_untrained(cfg, pairs), pairs, workspace)


def raw(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Pretrained weights as they are, mean over tokens, without pooler and domain tokens.

    Of a model with random weights and a bundled tokenizer, the weights which that tokenizer comes
    with.
    """
    from projects.moe_embeddings.evaluate import reference_scores

    pairs = load_pairs(cfg, cfg.eval.part)
    place = cfg.model.tokenizer or cfg.model.pretrained
    return score_row(cfg, reference_scores(cfg, place, pairs), pairs, workspace)
