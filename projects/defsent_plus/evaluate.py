"""STS and transfer of the encoder, gain over M_0, isotropy of entries, reverse dictionary."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.data.text.options import metric_prefix
from common.engine.workspace import Workspace
from common.families.sentences.evaluation import evaluate_sentences
from projects.defsent_plus.config import Config
from projects.defsent_plus.data import Dictionary, load_dictionary
from projects.defsent_plus.module import DefSentPlus

SHOWN = 6  # held-out definitions of the gallery


def evaluate(cfg: Config, module: DefSentPlus, workspace: Workspace) -> dict[str, float]:
    """All metrics of a trained module.

    - STS, geometry and, if asked for, transfer tasks of the encoder (`evaluate_sentences`), with
      those of M_0 as ``untrained_*`` and the difference as ``gain_*``.
    - ``sts_average_rounded``: mean of the sets' scores after rounding to four decimals, as
      released.
    - ``round_<k>_mean_cosine`` of the entries of round k, ``ica_mean_cosine`` of the last ones.
    - `Dictionary.statistics`, and of held-out definitions `reverse_metrics`.
    """
    metrics = evaluate_sentences(cfg, module, workspace)
    names = [f"{metric_prefix(name)}_spearman" for name in cfg.eval.sets]
    metrics["sts_average_rounded"] = sum(round(metrics[n], 4) for n in names) / len(names)
    for name in [*names, "sts_average_spearman"] if cfg.eval.untrained else []:
        metrics[f"gain_{name}"] = metrics[name] - metrics[f"untrained_{name}"]
    metrics |= isotropy_metrics(module.isotropy)
    dictionary = load_dictionary(cfg)
    metrics |= dictionary.statistics()
    if dictionary.held_out:
        scores = module.entry_scores([text for text, _ in dictionary.held_out])
        golds = [gold for _, gold in dictionary.held_out]
        metrics |= reverse_metrics(scores, golds)
        workspace.gallery("reverse dictionary", gallery(dictionary, scores))
    return metrics


def isotropy_metrics(isotropy: Tensor) -> dict[str, float]:
    """Mean cosine of the entries by round, (k, 2): before and after ICA; nan is left out."""
    metrics = {f"round_{k}_mean_cosine": float(row[0]) for k, row in enumerate(isotropy, 1)}
    metrics["ica_mean_cosine"] = float(isotropy[-1, 1])
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def reverse_metrics(scores: Tensor, golds: Sequence[Sequence[int]]) -> dict[str, float]:
    """``reverse_top1``, ``reverse_top10`` and their chance: is the entry among the best?

    Any entry of a definition counts. Entries of equal score come in the order of their rows.

    Args:
        scores: (N, n).
        golds: rows of the entries that each definition defines.

    >>> reverse_metrics(torch.tensor([[0.1, 0.9, 0.5]]), [(0, 1)])["reverse_top1"]
    1.0
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :10].tolist()
    num, metrics = scores.shape[1], {}
    for k in (1, 10):
        hits = [bool(set(best[:k]) & set(gold)) for best, gold in zip(order, golds, strict=True)]
        metrics[f"reverse_top{k}"] = sum(hits) / len(hits)
        missed = [math.comb(num - len(g), k) / math.comb(num, k) if num > k else 0.0 for g in golds]
        metrics[f"reverse_top{k}_chance"] = 1 - sum(missed) / len(missed)
    return metrics


def gallery(dictionary: Dictionary, scores: Tensor) -> list[dict[str, Any]]:
    """The best entries of some held-out definitions."""
    rows: list[dict[str, Any]] = []
    for (text, gold), row in list(zip(dictionary.held_out, scores, strict=True))[:SHOWN]:
        top = torch.topk(row, min(5, len(row)))
        results = [
            {"item": dictionary.entries[i], "score": s, "correct": i in gold}
            for s, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        rows.append({"query": text, "results": results})
    return rows
