"""What RankGen has to beat: chance, lengths, shared words, language model, untrained encoder."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.encoders import modes
from common.engine.workspace import Workspace
from common.evaluation.generation.measures import word_overlap
from projects.rankgen.config import Config
from projects.rankgen.continuations import language_model
from projects.rankgen.data import TripleList, eval_triples
from projects.rankgen.evaluate import TfIdf, large_books, lm_metrics, negatives, rank_metrics
from projects.rankgen.identification import beaten
from projects.rankgen.stages import recipe_of

LM_PREFIXES = 400  # evenly spaced; each costs three passes of the language model


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Expectation of a random ranking."""
    metrics = untrained(cfg, workspace)
    return {
        name.removesuffix("_chance"): v for name, v in metrics.items() if name.endswith("_chance")
    }


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The encoder before training."""
    encoder = modes.untrained(recipe_of(cfg).build, cfg.seed)
    with modes.evaluated(encoder, cfg.trainer.accelerator):
        return rank_metrics(cfg, encoder, _scored(cfg))[0]


def tfidf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """TF-IDF vectors of prefix and continuation."""
    triples = _scored(cfg)
    return rank_metrics(cfg, TfIdf(triples), triples)[0]


def overlap(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Share of a continuation's words that the prefix has; the paper re-ranks with it as well."""
    return pair_metrics(cfg, lambda prefix, text: word_overlap(text, prefix)[0])


def length(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The longer or the shorter continuation wins, whichever is right more often here."""
    metrics = pair_metrics(cfg, lambda prefix, text: float(len(text.split())))
    return {name: max(value, 1 - value) for name, value in metrics.items()}


def perplexity(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The language model's mean log-probability per token.

    It wrote the generated continuations itself.
    """
    some = replace(cfg, eval=replace(cfg.eval, lm_prefixes=LM_PREFIXES))
    metrics = lm_metrics(some, language_model(cfg), _scored(cfg))
    return {n.removeprefix("lm_"): v for n, v in metrics.items() if not n.endswith("_chance")}


def pair_metrics(cfg: Config, score: Callable[[str, str], float]) -> dict[str, float]:
    """Accuracies of a score of (prefix, continuation) against both kinds of negatives."""
    triples = _scored(cfg)
    golds = [t.gold for t in triples.rows]

    def scores(texts: Sequence[str]) -> Tensor:
        pairs = zip(triples.rows, texts, strict=True)
        return torch.tensor([score(row.prefix, text) for row, text in pairs])

    right, chosen = scores(golds), negatives(triples, cfg.eval.num_negatives)
    wrong = torch.stack([scores([golds[i] for i in column]) for column in chosen.T], 1)
    metrics = {"inbook_accuracy": float(beaten(right, wrong).mean())}
    written = [t.generated for t in triples.rows]
    if None not in written:
        other = scores([text or "" for text in written])
        metrics["generated_accuracy"] = float(beaten(right, other[:, None]).mean())
    return metrics


def _scored(cfg: Config) -> TripleList:
    return large_books(eval_triples(cfg), cfg.eval.num_negatives)
