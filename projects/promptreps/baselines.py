"""What PromptReps has to beat: words, the in-text tokens by idf, and the model without a prompt."""

import math
from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from common.data.text.normalize import text_preparation
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import Run, to_run
from common.evaluation.retrieval.runs import dense_run, lexical_run
from common.families.retrieval.baselines import RIDGE, score_sets
from projects.promptreps.config import Config, PromptConfig
from projects.promptreps.encoder import PromptRepsEncoder, build_encoder, variant
from projects.promptreps.evaluate import search_set
from projects.promptreps.lexical.impact_index import ImpactIndex
from projects.promptreps.lexical.lexical_head import SCALE
from projects.promptreps.prompt import Role

__all__ = ["bm25", "idf_tokens", "tfidf", "untrained_hybrid", "whitened_mean"]

BARE = PromptConfig(framed=False)


def _before(cfg: Config) -> PromptRepsEncoder:
    return untrained(lambda: build_encoder(cfg.model), cfg.seed)


def bm25(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """BM25."""
    same = cfg.eval.remove_query
    return score_sets(cfg, workspace, lambda data: lexical_run(data, "bm25", drop_identical=same))


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Cosine of TF-IDF vectors."""
    same = cfg.eval.remove_query
    return score_sets(cfg, workspace, lambda data: lexical_run(data, "tfidf", drop_identical=same))


def untrained_hybrid(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Prompt and fusion with the language model as it is before any stage."""
    encoder = _before(cfg)
    with evaluated(encoder, cfg.trainer.accelerator):
        return score_sets(
            cfg, workspace, lambda data: search_set(cfg, encoder, data).fused(cfg.eval.alpha)
        )


def whitened_mean(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Mean of its states over the bare text, whitened on the documents of each set."""
    encoder = variant(_before(cfg), BARE, kind="mean", normalize=False)

    prepare = text_preparation(cfg.eval.normalize_text, cfg.eval.lower_case)

    def encode(texts: Iterable[str], role: Role) -> Tensor:
        return encoder.encode([prepare(t) for t in texts], role, cfg.eval.batch_size)["dense"]

    def rank(data: RetrievalSet) -> Run:
        documents = encode(data.corpus.values(), "passage")
        transform = fit_whitening(documents, ridge=RIDGE)
        return dense_run(
            data,
            lambda texts: transform(encode(texts, "query")),
            lambda _: transform(documents),
            drop_identical=cfg.eval.remove_query,
        )

    with evaluated(encoder, cfg.trainer.accelerator):
        return score_sets(cfg, workspace, rank)


def idf_tokens(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The tokens of the text by idf, without a model."""
    in_text = _before(cfg).in_text

    def rank(data: RetrievalSet) -> Run:
        held = [in_text(text) for text in data.corpus.values()]
        counts = Counter(token for row in held for token in row)
        idf = {token: round(SCALE * math.log(len(held) / n)) for token, n in counts.items()}
        documents = [{token: idf[token] for token in row} for row in held]
        queries = [dict.fromkeys(in_text(text), 1) for text in data.queries.values()]
        hits = ImpactIndex(documents).search(queries, cfg.eval.depth)
        ids = list(data.queries), list(data.corpus)
        return to_run(hits, *ids, drop_identical=cfg.eval.remove_query)

    return score_sets(cfg, workspace, rank)
