"""Phase II: what is chosen, against the gold description and against the paragraph."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.engine.workspace import Workspace
from common.evaluation.features.postprocessing import fit_whitening
from common.evaluation.generation.reference import ROUGE_F, mean_scores, rouge, rouge_f
from projects.wikides.bert_score import BertScore
from projects.wikides.config import Config, MethodConfig
from projects.wikides.data import Row
from projects.wikides.encoder import RankerEncoder
from projects.wikides.objective import Objective
from projects.wikides.selectors import SELECTORS, Selection

FAMILIES = ("gold", "source")  # what texts are compared with
GIVEN = ("phase1", "baseline", "reference")  # texts that come with the paragraphs
RIDGE = 1e-6
_SHOWN = (
    "gold_rouge_1",
    "gold_rouge_2",
    "gold_rouge_l",
    "source_rouge_1",
    "source_rouge_2",
    "source_rouge_l",
    "words",
)


def similarities(
    encoder: RankerEncoder, rows: Sequence[Row], batch_size: int, *, whiten: bool = False
) -> list[Tensor]:
    """Cosine of every candidate with its paragraph, (n,) for each row.

    Args:
        encoder: shared by both.
        rows: paragraphs with candidates.
        batch_size: texts of a pass.
        whiten: vectors are whitened on all texts of the call (Su et al. 2021, arXiv 2103.15316).
    """
    counts = [len(row.candidates) for row in rows]
    texts = [row.source for row in rows] + [c for row in rows for c in row.candidates]
    vectors = encoder.encode(texts, batch_size)
    if whiten:
        vectors = fit_whitening(vectors, ridge=RIDGE)(vectors)
    sources, candidates = torch.split(vectors, [len(rows), sum(counts)])
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts))
    cosines = F.cosine_similarity(candidates, sources[owner], dim=1)
    return list(torch.split(cosines, counts))


def score_rows(method: MethodConfig, rows: Sequence[Row], sims: Sequence[Tensor]) -> list[Tensor]:
    """Scores of the candidates by the method's fusion, (n,) for each row."""
    score = Objective(method).score
    with torch.no_grad():
        return [
            score(sim, torch.tensor([rouge_f(c, row.source) for c in row.candidates]))
            for row, sim in zip(rows, sims, strict=True)
        ]


def chosen(rows: Sequence[Row], scores: Sequence[Tensor]) -> Selection:
    """The candidate of the highest score; candidates are those of the row, there is no padding."""
    return [[row.candidates[int(s.argmax())]] for row, s in zip(rows, scores, strict=True)]


def selection_scores(rows: Sequence[Row], selection: Selection) -> dict[str, list[float]]:
    """ROUGE-1, -2, -L (F1) against description and paragraph, and word counts, per row."""
    scores: dict[str, list[float]] = {
        f"{family}_{kind}": [] for family in FAMILIES for kind in ROUGE_F
    }
    scores["words"] = []
    for row, texts in zip(rows, selection, strict=True):
        for family, reference in (("gold", row.target), ("source", row.source)):
            figures = [rouge(text, reference) for text in texts]
            for kind in ROUGE_F:
                scores[f"{family}_{kind}"].append(float(np.mean([f[kind][2] for f in figures])))
        scores["words"].append(float(np.mean([len(text.split()) for text in texts])))
    return scores


def row_metrics(
    rows: Sequence[Row], selection: Selection, workspace: Workspace | None, row: str = ""
) -> dict[str, float]:
    """Means of `selection_scores`, whose values per row are saved for `make compare`."""
    values = selection_scores(rows, selection)
    if workspace is not None:
        for name, per_row in values.items():
            workspace.items(f"{row}{name}", per_row)
    return {f"{row}{name}": float(np.mean(per_row)) for name, per_row in values.items()}


@lru_cache(maxsize=1)
def _bert_score(pretrained: str, layer: int) -> BertScore:
    return BertScore(pretrained, layer)


def full_metrics(
    cfg: Config,
    rows: Sequence[Row],
    texts: Sequence[str],
    row: str = "",
    families: Sequence[str] = FAMILIES,
) -> dict[str, float]:
    """ROUGE with precision and recall, BLEU, METEOR and, if asked, BERTScore, of one text a row."""
    score = None
    if cfg.eval.bert_score is not None:
        score = _bert_score(cfg.eval.bert_score, cfg.eval.bert_score_layer)
    metrics: dict[str, float] = {}
    for family in families:
        references = [r.target if family == "gold" else r.source for r in rows]
        means, _ = mean_scores(texts, references)
        if score is not None:
            triples = np.array(score(texts, references)).mean(0).tolist()
            names = ("bert_score_precision", "bert_score_recall", "bert_score")
            means |= dict(zip(names, triples, strict=True))
        metrics |= {f"{row}{family}_{name}": value for name, value in means.items()}
    return metrics


def agreement(rows: Sequence[Row], scores: Sequence[Tensor]) -> dict[str, float]:
    """How scores order candidates: rank correlation with ROUGE-L, and the best candidate.

    Rows whose candidates are all equally near to the description, or scored alike, say nothing.
    """
    from scipy.stats import spearmanr

    correlations, hits = [], []
    for row, row_scores in zip(rows, scores, strict=True):
        quality = [rouge_f(c, row.target, "rouge_l") for c in row.candidates]
        hits.append(quality[int(row_scores.argmax())] == max(quality))
        values = row_scores.tolist()
        if len(set(quality)) > 1 and len(set(values)) > 1:
            correlations.append(float(spearmanr(values, quality).statistic))
    metrics = {"best_chosen": float(np.mean(hits))}
    if correlations:
        metrics["rank_correlation"] = float(np.mean(correlations))
    return metrics


def evaluate_encoder(
    cfg: Config, encoder: RankerEncoder, rows: Sequence[Row], workspace: Workspace | None
) -> dict[str, float]:
    """Figures of an encoder: the method's own selection, and similarity alone and fused next to it.

    Args:
        cfg: the experiment's config.
        encoder: in evaluation mode.
        rows: test rows.
        workspace: of the run; None saves nothing.
    """
    sims = similarities(encoder, rows, cfg.eval.batch_size, whiten=cfg.eval.whiten)
    scores = score_rows(cfg.method, rows, sims)
    selection = chosen(rows, scores)
    metrics = row_metrics(rows, selection, workspace) | agreement(rows, scores)
    for name, rouge_too in (("sim", False), ("fusion", True)):
        method = MethodConfig(use_rouge=rouge_too, sim_range=cfg.method.sim_range)
        alternative = chosen(rows, score_rows(method, rows, sims))
        metrics |= row_metrics(rows, alternative, None, f"{name}_")
    if workspace is not None:
        if cfg.eval.full:
            metrics |= full_metrics(cfg, rows, [texts[0] for texts in selection])
        workspace.gallery("chosen descriptions", gallery(rows, scores))
    return metrics


def grid(rows: Sequence[Row]) -> dict[str, float]:
    """Rows of the table that need no encoder: `SELECTORS`."""
    metrics: dict[str, float] = {}
    for name, select in SELECTORS.items():
        metrics |= row_metrics(rows, select(rows), None, f"{name}_")
    return metrics


def given_rows(cfg: Config, rows: Sequence[Row]) -> dict[str, float]:
    """The same measures of texts that come with the paragraphs, where all of them have one.

    ``phase1_*``: phase I's own text; ``baseline_*``: the first name of an instance, the release's
    baseline; ``reference_source_*``: the gold description, against the paragraph alone.
    """
    metrics: dict[str, float] = {}
    for name in GIVEN:
        texts = [row.target if name == "reference" else getattr(row, name) for row in rows]
        if None in texts:
            continue
        families = FAMILIES[1:] if name == "reference" else FAMILIES
        system = row_metrics(rows, [[text] for text in texts], None, f"{name}_")
        if cfg.eval.full:
            system |= full_metrics(cfg, rows, texts, f"{name}_", families)
        metrics |= {k: v for k, v in system.items() if not k.startswith("reference_gold_")}
    return metrics


def gains(metrics: Mapping[str, float]) -> dict[str, float]:
    """The paper's gain: the chosen text over phase I's own; nothing where that is not known."""
    names = [f"{family}_{kind}" for family in FAMILIES for kind in ROUGE_F]
    return {
        f"gain_{n}": metrics[n] - metrics[f"phase1_{n}"] for n in names if f"phase1_{n}" in metrics
    }


def table(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    """Rows of ROUGE against both references, as text; "" is the run's own row."""
    lines = [f"{'':12}" + "".join(f"{name:>16}" for name in _SHOWN)]
    for name in names:
        prefix = f"{name}_" if name else ""
        values = [metrics.get(f"{prefix}{shown}", float("nan")) for shown in _SHOWN]
        if np.isnan(values).all():
            continue
        lines.append(f"{name or 'chosen':12}" + "".join(f"{value:16.4f}" for value in values))
    return "\n".join(lines)


def gallery(rows: Sequence[Row], scores: Sequence[Tensor], most: int = 12) -> list[dict[str, Any]]:
    """Some paragraphs with their candidates, best score first.

    Right is what is nearest to the gold.
    """
    entries = []
    for i in range(0, len(rows), max(1, -(-len(rows) // most))):
        row, row_scores = rows[i], scores[i].tolist()
        quality = [rouge_f(c, row.target, "rouge_l") for c in row.candidates]
        order = sorted(range(len(row_scores)), key=lambda c: -row_scores[c])
        results = [
            {
                "item": row.candidates[c],
                "score": row_scores[c],
                "correct": quality[c] == max(quality),
            }
            for c in order
        ]
        entries.append({"query": f"{row.source[:300]} [{row.target}]", "results": results})
    return entries
