"""Bias diagnostics of an encoder, and what the drawn pairs are like."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.text.lexical import surface_similarity, words
from common.data.text.sets import StsSet
from common.engine.workspace import Workspace
from common.evaluation.text.sts import pair_cosine, partial_spearman, spearman
from common.families.sentences.data import first_sts_set
from common.families.sentences.evaluation import before_and_after, evaluate_sentences
from projects.debcse.config import Config
from projects.debcse.data import corpus
from projects.debcse.mining import with_variants
from projects.debcse.module import DebCSE
from projects.debcse.record import FEATURES, SIDES, SUMMARY, PairRecord, distances

Encode = Callable[[list[str]], Tensor]
LONG_DIFFERENCE = 3  # words


def evaluate(cfg: Config, module: DebCSE, workspace: Workspace) -> dict[str, float]:
    """STS, diagnostics on the first set before and after training, and the record of the pairs."""
    metrics, texts = evaluate_sentences(cfg, module, workspace), corpus(cfg)
    sts, counts = first_sts_set(cfg), Counter(w for text in texts for w in words(text))
    metrics |= before_and_after(
        cfg, module, lambda encode: bias_diagnostics(cfg, encode, sts, counts)
    )
    record = module.record
    if record.filled:
        metrics |= pair_metrics(record)
        workspace.figure("pairs", pair_figure(record))
        workspace.gallery("drawn pairs", examples(record, with_variants(cfg, texts)))
    return metrics


def pair_metrics(record: PairRecord) -> dict[str, float]:
    """Summary of the draws, mean features, and distances to supervised pairs."""
    metrics = {
        name: value
        for name, value in zip(SUMMARY, record.summary.tolist(), strict=True)
        if not math.isnan(value)
    }
    for side, name in enumerate(SIDES):
        table = record.features("drawn", side)
        if len(table):
            metrics |= {
                f"{name}_{feature}": float(value)
                for feature, value in zip(FEATURES, table.mean(axis=0), strict=True)
            }
    return metrics | distances(record)


# -- biases of the encoder -----------------------------------------------------------------------


def bias_diagnostics(
    cfg: Config, encode: Encode, sts: StsSet, counts: Mapping[str, int]
) -> dict[str, float]:
    """What surface form does to the scores of an encoder.

    Args:
        cfg: the experiment's config.
        encode: texts -> (N, D).
        sts: graded pairs.
        counts: occurrences of words in the corpus.

    Returns:
        ``long_difference_spearman`` (lengths differ by more than three words, if two pairs do),
        ``surface_<low|middle|high>_spearman`` (terciles of s), ``surface_partial_correlation``
        (rank correlation of cosine and s given the gold score, 0 is unbiased) and
        ``frequency_cosine`` (mean embeddings of rare-word and of frequent-word sentences, 1 is
        unbiased).
    """
    first, second = encode(sts.first), encode(sts.second)
    cosine, gold = pair_cosine(first, second).numpy(), np.asarray(sts.scores)
    surface = surface_similarity(sts.first, sts.second, cfg.surface.kind)
    sizes = [np.array([len(words(text)) for text in side]) for side in (sts.first, sts.second)]
    groups = {"long_difference": np.flatnonzero(np.abs(sizes[0] - sizes[1]) > LONG_DIFFERENCE)}
    thirds = np.array_split(np.argsort(surface, kind="stable"), 3)
    groups |= {f"surface_{n}": t for n, t in zip(("low", "middle", "high"), thirds, strict=True)}
    metrics = {
        f"{name}_spearman": spearman(cosine[rows], gold[rows])
        for name, rows in groups.items()
        if len(rows) > 1
    }
    metrics["surface_partial_correlation"] = partial_spearman(cosine, surface, gold)
    everything = torch.cat([first, second])
    metrics["frequency_cosine"] = frequency_cosine(everything, sts.first + sts.second, counts)
    return metrics


def frequency_cosine(embeddings: Tensor, texts: Sequence[str], counts: Mapping[str, int]) -> float:
    """Cosine of the mean embeddings of the third with the rarest and with the most frequent words.

    Source: Li et al. 2020, "On the sentence embeddings from pre-trained language models", section
    4, arXiv 2011.05864 (word frequency biases the embedding space).

    Args:
        embeddings: (N, D) of the texts.
        texts: N texts.
        counts: occurrences of words; a text's rank is its mean log count.
    """
    frequency = [
        float(np.mean([math.log1p(counts.get(word, 0)) for word in words(text)] or [0.0]))
        for text in texts
    ]
    order = np.argsort(frequency, kind="stable")
    third = max(1, len(order) // 3)
    rare, frequent = (
        embeddings[torch.from_numpy(o)].mean(0) for o in (order[:third], order[-third:])
    )
    return float(pair_cosine(rare[None], frequent[None])[0])


# -- pictures ------------------------------------------------------------------------------------


def pair_figure(record: PairRecord) -> Any:
    """Histograms of s, m and length ratio: drawn pairs (filled) and supervised ones (line)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5))
    axes = figure.subplots(2, len(FEATURES))
    for side, name in enumerate(SIDES):
        relation = ("entailment", "contradiction")[side]
        for column, feature in enumerate(FEATURES):
            plot, bins = axes[side][column], np.linspace(0, 1, 21)
            drawn, supervised = (record.features(k, side) for k in ("drawn", "supervised"))
            if len(drawn):
                plot.hist(drawn[:, column], bins, density=True, alpha=0.5, label=f"drawn {name}s")
            if len(supervised):
                plot.hist(
                    supervised[:, column], bins, density=True, histtype="step", label=relation
                )
            plot.set_xlabel(feature.replace("_", " "))
            if column == 0:
                plot.legend(fontsize=7)
    figure.tight_layout()
    return figure


def examples(record: PairRecord, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Some anchors with the positive and the negative that were drawn for them."""
    rows = []
    for ids, scores in zip(record.examples.tolist(), record.example_scores.tolist(), strict=True):
        if ids[0] < 0:
            continue
        results = [
            {
                "item": f"{side} (surface {s:.2f}, semantic {m:.2f}): {texts[i]}",
                "score": m,
                "correct": side == "positive",
            }
            for side, i, (s, m) in zip(SIDES, ids[1:], scores, strict=True)
            if i >= 0 and not math.isnan(m)
        ]
        rows.append({"query": texts[ids[0]], "results": results})
    return rows
