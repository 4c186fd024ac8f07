"""Domains made of bundled sets, and made-up ones: four relations, each as citations.

| domain | documents | what cites them | split by |
|---|---|---|---|
| cisi | abstracts of library science | queries that judge them relevant, see `BROAD` | document |
| npl | abstracts of electronics | the same | document |
| esco | descriptions of occupations | ISCO groups of four digits | group |
| docstrings | docstrings of Python packages | modules | module |
"""

from functools import lru_cache

from common.data.lookup import bundled
from common.data.occupations import FOLDER as OCCUPATIONS
from common.data.occupations import load_occupations
from common.data.samplers import sample_rng
from common.data.synthetic_words import SYLLABLES
from common.data.tables import read_jsonl
from common.evaluation.retrieval.beir import load_beir, load_corpus
from projects.moe_embeddings.cocitation import Collection, Pair, Part, pairs_of

FOLDERS = {
    "cisi": "retrieval-cisi",
    "npl": "retrieval-npl",
    "esco": OCCUPATIONS,
    "docstrings": "code-python-doc",
}
SHARES = (0.1, 0.3)  # of validation and test
VALID_PAIRS = 300  # positive ones of a domain
# A query with more than this share of the collection pairs documents that have little in common: of
# two documents drawn among CISI's pairs, every fourth would be a positive pair, so that most
# batches would hold false negatives.
BROAD = 0.04
_TOPICS, _TOPIC_WORDS, _DOCUMENTS = 12, 6, 10
_SYNTHETIC_STREAM = 2**31 + 86


def collection(domain: str, root: str | None) -> Collection:
    """Documents and citations of a bundled domain.

    Raises:
        UserError: the set is missing or damaged.
    """
    if domain == "esco":
        occupations = load_occupations(root)
        texts = {o.uri: o.description for o in occupations}
        groups = {o.uri: o.group for o in occupations}
        return Collection(domain, texts, [(g, uri) for uri, g in groups.items()], groups)
    folder = bundled(FOLDERS[domain], root)
    if domain == "docstrings":
        rows = read_jsonl(folder / "train.jsonl.gz", ("module", "doc"))
        modules = {row["doc"]: row["module"] for row in rows}  # equal docstrings count once
        return Collection(
            domain, {d: d for d in modules}, [(m, d) for d, m in modules.items()], modules
        )
    texts = dict(load_corpus(folder))
    judged = load_beir(folder)
    relevant = {q: judged.relevant(q) for q in judged.qrels}
    narrow = {
        q: documents for q, documents in relevant.items() if len(documents) <= BROAD * len(texts)
    }
    return Collection(
        domain, texts, [(f"query {q}", d) for q, documents in narrow.items() for d in documents]
    )


@lru_cache(8)
def bundled_pairs(domain: str, root: str | None, test_pairs: int | None) -> dict[Part, list[Pair]]:
    """All positive training pairs; validation and test pairs, the same for every seed.

    Raises:
        UserError: the set is missing or damaged.
    """
    most: dict[Part, int | None] = {"train": None, "valid": VALID_PAIRS, "test": test_pairs}
    return pairs_of(collection(domain, root), SHARES, most.__getitem__)


@lru_cache(8)
def synthetic_pairs(domain: str, seed: int) -> dict[Part, list[Pair]]:
    """Made-up documents about topics; in every domain other topics belong together.

    The same words mean something else in each domain: topic t is cited with topic t + shift, where
    the shift is the domain's, so that what is near in one domain is far in another.

    Args:
        domain: its name.
        seed: of words and documents.
    """
    rng = sample_rng(seed, 0, 0, _SYNTHETIC_STREAM)
    codes = rng.permutation(len(SYLLABLES) ** 2)[: _TOPICS * _TOPIC_WORDS]
    words = [SYLLABLES[c // len(SYLLABLES)] + SYLLABLES[c % len(SYLLABLES)] for c in codes]
    shift = 1 + sum(map(ord, domain)) % (_TOPICS - 1)
    texts, citations = dict[str, str](), list[tuple[str, str]]()
    for topic in range(_TOPICS):
        topic_words = words[topic * _TOPIC_WORDS : (topic + 1) * _TOPIC_WORDS]
        for number in range(_DOCUMENTS):
            name = f"{domain} {topic} {number}"
            texts[name] = " ".join(rng.choice(topic_words, size=5))
            citations += [(str(topic), name), (str((topic + shift) % _TOPICS), name)]
    return pairs_of(Collection(domain, texts, citations), (0.2, 0.3), lambda part: 60)
