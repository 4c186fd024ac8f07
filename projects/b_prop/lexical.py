"""What a re-ranker has to beat: orders of the same candidates that need no training."""

import math
from collections import Counter

import numpy as np
from scipy.stats import kendalltau

from common.data.samplers import sample_rng
from common.data.text.lexical import words
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.ranking import Run
from projects.b_prop.config import WordsConfig
from projects.b_prop.corpus_statistics import CorpusStatistics, dirichlet
from projects.b_prop.documents import Terms

_RANDOM = 2**31 + 85


def query_likelihood(data: RetrievalSet, candidates: Run, options: WordsConfig) -> Run:
    """PROP's own teacher as a ranker: sum of log P(w|D) over the words of the query.

    Words that neither document nor collection has count for nothing.

    Source: Ponte & Croft 1998; with Dirichlet smoothing: Zhai & Lafferty 2004.

    Args:
        data: collection, queries, judgements.
        candidates: that are put in order.
        options: stop words and stems, P(w|C), mu.
    """
    terms = Terms(options)

    def counts(text: str) -> Counter[str]:
        kept = (w for w in words(text) if w not in terms.stop_words)
        return Counter(terms.stem(w) for w in kept)

    statistics = CorpusStatistics.of(counts(text) for text in data.corpus.values())
    background = statistics.background(options.background)
    mu = options.mu or statistics.mean_length
    run: dict[str, dict[str, float]] = {}
    for query, documents in candidates.items():
        asked = counts(data.queries[query])
        run[query] = {}
        for document in documents:
            held = counts(data.corpus[document])
            length = sum(held.values())
            chances = {w: dirichlet(w, held, length, background, mu) for w in asked}
            run[query][document] = sum(
                n * math.log(chances[w]) for w, n in asked.items() if chances[w]
            )
    return run


def shared_words(data: RetrievalSet, candidates: Run) -> Run:
    """Distinct words of the query that the document holds."""
    return {
        query: {
            d: float(len({*words(data.queries[query])} & {*words(data.corpus[d])}))
            for d in documents
        }
        for query, documents in candidates.items()
    }


def random_order(candidates: Run, seed: int) -> Run:
    """Candidates in an order that the seed alone decides."""
    rng = sample_rng(seed, 0, 0, _RANDOM)
    return {
        q: dict(zip(documents, rng.random(len(documents)).tolist(), strict=True))
        for q, documents in candidates.items()
    }


def best_order(data: RetrievalSet, candidates: Run) -> Run:
    """The best order that these candidates can be put in: what re-ranking could reach."""
    return {
        q: {d: float(data.qrels[q].get(d, 0)) for d in documents}
        for q, documents in candidates.items()
    }


def agreement(first: Run, second: Run) -> float:
    """Mean over queries of Kendall's tau (b) between two orders of the same candidates."""
    values = []
    for query, documents in first.items():
        if len(documents) > 1:
            other = [second[query][d] for d in documents]
            tau = kendalltau(list(documents.values()), other).statistic
            values.append(0.0 if np.isnan(tau) else float(tau))  # one of them ties all
    return float(np.mean(values)) if values else 0.0
