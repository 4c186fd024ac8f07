"""Evaluators: plain functions on cached embeddings that return flat ``name -> number`` dicts.

All of them are deterministic, run under exact float arithmetic without gradients and in blocks.
A metric ``m`` that has a chance value comes with ``m_chance``.
"""

from common.encoders.modes import evaluated, evaluation_mode
from common.evaluation import zeroshot
from common.evaluation.beir import RetrievalSet, load_beir
from common.evaluation.bm25 import BM25
from common.evaluation.encoding import encode, encode_texts
from common.evaluation.few_shot import few_shot_class_mean
from common.evaluation.geometry import (
    alignment,
    effective_rank,
    geometry_metrics,
    mean_cosine,
    participation_ratio,
    rankme,
    uniformity,
)
from common.evaluation.knn import knn_accuracy
from common.evaluation.linear_probe import fit_logistic_regression, linear_probe
from common.evaluation.mining import mine_hard_negatives
from common.evaluation.ranking import (
    average_precision,
    ndcg,
    per_query_metrics,
    ranking_metrics,
    to_run,
)
from common.evaluation.report import markdown_table, read_metrics, write_report
from common.evaluation.retrieval import cross_modal_recall, image_text_retrieval, relevant_ranks
from common.evaluation.search import SearchResult, search, stable_topk
from common.evaluation.statistics import (
    Interval,
    Verdict,
    paired_bootstrap,
    paired_bootstrap_metric,
    verdict,
)
from common.evaluation.sts import (
    pair_cosine,
    partial_spearman,
    spearman,
    sts_metrics,
    sts_score,
)
from common.evaluation.sts_protocol import evaluate_sts
from common.evaluation.text_index import Hit, TextIndex, embed_texts
from common.evaluation.transfer import (
    LabelledTexts,
    TransferTask,
    evaluate_transfer,
    load_transfer,
)
from common.evaluation.word_similarity import evaluate_word_similarity, load_word_pairs
from common.evaluation.zeroshot import (
    LACLIP_TEMPLATES,
    SIMPLE_TEMPLATES,
    class_embeddings,
    mean_per_class_accuracy,
    zeroshot_accuracy,
    zeroshot_roc_auc,
)


def __getattr__(name: str) -> tuple[str, ...]:
    if name in ("OPENAI_TEMPLATES", "IMAGENET_CLASS_NAMES"):  # reading them imports open_clip
        names: tuple[str, ...] = getattr(zeroshot, name)
        return names
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BM25",
    "LACLIP_TEMPLATES",
    "SIMPLE_TEMPLATES",
    "Hit",
    "Interval",
    "LabelledTexts",
    "RetrievalSet",
    "SearchResult",
    "TextIndex",
    "TransferTask",
    "Verdict",
    "alignment",
    "average_precision",
    "class_embeddings",
    "cross_modal_recall",
    "effective_rank",
    "embed_texts",
    "encode",
    "encode_texts",
    "evaluate_sts",
    "evaluate_transfer",
    "evaluate_word_similarity",
    "evaluated",
    "evaluation_mode",
    "few_shot_class_mean",
    "fit_logistic_regression",
    "geometry_metrics",
    "image_text_retrieval",
    "knn_accuracy",
    "linear_probe",
    "load_beir",
    "load_transfer",
    "load_word_pairs",
    "markdown_table",
    "mean_cosine",
    "mean_per_class_accuracy",
    "mine_hard_negatives",
    "ndcg",
    "pair_cosine",
    "paired_bootstrap",
    "paired_bootstrap_metric",
    "partial_spearman",
    "participation_ratio",
    "per_query_metrics",
    "ranking_metrics",
    "rankme",
    "read_metrics",
    "relevant_ranks",
    "search",
    "spearman",
    "stable_topk",
    "sts_metrics",
    "sts_score",
    "to_run",
    "uniformity",
    "verdict",
    "write_report",
    "zeroshot_accuracy",
    "zeroshot_roc_auc",
]
