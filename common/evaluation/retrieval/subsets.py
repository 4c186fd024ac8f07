"""Parts of a judged set: fewer documents, queries held out for training, titles as queries."""

from collections.abc import Mapping

from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.synthetic_words import SYLLABLES
from common.evaluation.retrieval.beir import RetrievalSet

_SYNTHETIC_STREAM = 3


def reduced(data: RetrievalSet, num_documents: int) -> RetrievalSet:
    """The set with fewer documents: those judged relevant, and others whose ids hash lowest.

    Args:
        data: the whole set.
        num_documents: documents to keep; all that are relevant stay, also if they are more.
            Judgements of
            documents that the set does not hold stay too.
    """
    right = {d for query in data.qrels for d in data.relevant(query)}
    others = sorted((d for d in data.corpus if d not in right), key=stable_fraction)
    kept = right | {*others[: max(0, num_documents - len(right))]}
    left_out = data.corpus.keys() - kept
    qrels = {
        q: {d: g for d, g in grades.items() if d not in left_out}
        for q, grades in data.qrels.items()
    }
    return RetrievalSet({d: t for d, t in data.corpus.items() if d in kept}, data.queries, qrels)


def split_queries(data: RetrievalSet, num_held_out: int) -> tuple[RetrievalSet, RetrievalSet]:
    """Two sets over the same documents: the queries held out (for training), and the others.

    Args:
        data: the whole set.
        num_held_out: queries of smallest hash of their text, fewer than there are; those that
            repeat one of these texts go with it.

    Raises:
        ValueError: no query would be left.
    """
    if not 0 <= num_held_out < len(data.queries):
        raise ValueError(f"{num_held_out} of {len(data.queries)} queries cannot be held out")
    order = sorted(data.queries, key=lambda q: stable_fraction(data.queries[q]))
    texts = {data.queries[q] for q in order[:num_held_out]}
    taken = {q for q, text in data.queries.items() if text in texts}
    if len(taken) == len(data.queries):
        raise ValueError(f"no query is left whose text is not that of {num_held_out} held out")

    def part(held_out: bool) -> RetrievalSet:
        queries = {q: t for q, t in data.queries.items() if (q in taken) == held_out}
        return RetrievalSet(data.corpus, queries, {q: data.qrels[q] for q in queries})

    return part(True), part(False)


def query_folds(data: RetrievalSet, k: int) -> list[tuple[RetrievalSet, RetrievalSet]]:
    """Cross-validation over queries: k pairs of (training set, test set) over the same documents.

    Every query is tested once. Folds are dealt out in the order of the hashes of the queries'
    texts, so that they do not depend on a seed or on the order of the file; equal texts are in one
    fold.

    Args:
        data: the whole set.
        k: folds, from 2 to the number of different texts.

    Raises:
        ValueError: too few queries.
    """
    texts = sorted({*data.queries.values()}, key=lambda text: (stable_fraction(text), text))
    if not 2 <= k <= len(texts):
        raise ValueError(f"{len(texts)} different queries cannot be cut into {k} folds")
    fold_of = {text: place % k for place, text in enumerate(texts)}

    def part(names: set[str]) -> RetrievalSet:
        queries = {q: t for q, t in data.queries.items() if q in names}
        return RetrievalSet(data.corpus, queries, {q: data.qrels[q] for q in queries})

    folds = [{q for q, text in data.queries.items() if fold_of[text] == i} for i in range(k)]
    return [(part(data.queries.keys() - fold), part(fold)) for fold in folds]


def title_queries(titles: Mapping[str, str], texts: Mapping[str, str]) -> RetrievalSet:
    """Titles as queries for the texts that they belong to: a development set without judgements.

    Args:
        titles: by document; those without words are left out.
        texts: by document, without the titles.
    """
    queries = {d: title for d, title in titles.items() if title.strip() and texts[d].strip()}
    # other ids than the documents', since a document is not an answer to a query of its own id
    return RetrievalSet(
        {d: text for d, text in texts.items() if text.strip()},
        {f"title-{d}": title for d, title in queries.items()},
        {f"title-{d}": {d: 1} for d in queries},
    )


def synthetic_set(
    num_documents: int = 48, num_queries: int = 12, *, words: int = 40, seed: int = 0
) -> RetrievalSet:
    """Documents of made-up words; a query holds three words of the document that it asks for.

    Args:
        num_documents: of the collection.
        num_queries: at most as many.
        words: of a document.
        seed: equal seeds give equal sets.
    """
    rng = sample_rng(seed, 0, 0, _SYNTHETIC_STREAM)
    count = len(SYLLABLES)
    corpus, queries, qrels = {}, {}, {}
    for i in range(num_documents):
        vocabulary = [SYLLABLES[a] + SYLLABLES[b] for a, b in rng.integers(count, size=(words, 2))]
        corpus[f"d{i}"] = " ".join(vocabulary)
        if i < num_queries:
            queries[f"q{i}"] = " ".join(str(w) for w in rng.choice(vocabulary, 3, replace=False))
            qrels[f"q{i}"] = {f"d{i}": 1}
    return RetrievalSet(corpus, queries, qrels)
