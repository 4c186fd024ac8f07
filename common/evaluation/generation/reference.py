"""Texts against references: ROUGE, BLEU, METEOR, each by its library and averaged over the texts.

Sources: ROUGE: Lin 2004, "ROUGE" (library rouge-score, stemming off); BLEU: Papineni et al. 2002,
doi
10.3115/1073083.1073135 (sacrebleu, one sentence at a time; or unsmoothed, as `bleu_unsmoothed`);
METEOR: Lavie and Agarwal 2007, ACL Anthology W07-0734 (nltk, with its alpha 0.9, beta 3 and gamma
0.5; matches of words and of their stems, without WordNet's synonyms, whose file that library would
download). Official caption scores are of METEOR 1.5 (Denkowski and Lavie 2014, doi
10.3115/v1/W14-3348), which has other parameters, weights of function words, and paraphrases.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

ROUGES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
ROUGE_F = tuple(ROUGES)


@cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([ROUGES[kind] for kind in kinds], use_stemmer=False)


def rouge(
    text: str, reference: str, kinds: tuple[str, ...] = ROUGE_F
) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1 of ROUGE-1, -2, -L (sentence level) by kind; upper case is ignored.

    Args:
        text: its n-grams are what precision counts.
        reference: the other text.
        kinds: which of `ROUGES`.

    >>> rouge("One two", "one three two four", ("rouge_1",))["rouge_1"]
    (1.0, 0.5, 0.6666666666666666)
    """
    scores = _scorer(kinds).score(reference, text)
    return {kind: tuple(scores[ROUGES[kind]]) for kind in kinds}


def rouge_f(text: str, reference: str, kind: str = "rouge_1") -> float:
    """F1 of one kind of ROUGE, in [0, 1]."""
    return rouge(text, reference, (kind,))[kind][2]


def bleu(text: str, reference: str) -> float:
    """BLEU of one sentence, in [0, 1]; n-grams that a short text cannot have do not count.

    >>> bleu("a small town", "a small town")
    1.0
    """
    import sacrebleu

    score = sacrebleu.sentence_bleu(text, [reference], use_effective_order=True).score / 100
    return round(float(score), 12)


def bleu_unsmoothed(text: str, reference: str, order: int = 4) -> float:
    """BLEU of one sentence as it was first defined, in [0, 1]: words between spaces, no smoothing.

        BLEU = min(1, exp(1 - r / c)) (prod_{n=1}^{N} p_n)^{1/N}

    0 where an n-gram order has no match, so of every text of fewer than `order` words.

    Source: Papineni et al. 2002, section 2.3, doi 10.3115/1073083.1073135.

    Args:
        text: c words.
        reference: r words.
        order: N, the longest n-grams.

    >>> round(bleu_unsmoothed("a town in the north", "a town in the south") ** 4, 6)
    0.2
    """
    words, others = text.split(), reference.split()
    if len(words) < order or not others:
        return 0.0
    product = 1.0
    for n in range(1, order + 1):
        grams, expected = _grams(words, n), _grams(others, n)
        product *= (grams & expected).total() / grams.total()  # clipped counts
    brevity = min(1.0, math.exp(1 - len(others) / len(words)))
    return brevity * math.pow(product, 1 / order)


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


class _NoSynonyms:
    """In place of WordNet's reader."""

    @staticmethod
    def synsets(_: str) -> list[Any]:
        return []


def meteor(text: str, reference: str) -> float:
    """METEOR by words and stems, in [0, 1].

    >>> round(meteor("the small town", "the small towns"), 4)
    0.9815
    """
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    words = NLTKWordTokenizer().tokenize
    synonyms: Any = _NoSynonyms()
    return float(single_meteor_score(words(reference), words(text), wordnet=synonyms))


def reference_scores(text: str, reference: str) -> dict[str, float]:
    """ROUGE (F1, ``_precision``, ``_recall``), both BLEU and METEOR of one text."""
    scores: dict[str, float] = {}
    for kind, (precision, recall, f1) in rouge(text, reference).items():
        scores |= {kind: f1, f"{kind}_precision": precision, f"{kind}_recall": recall}
    scores |= {"bleu": bleu(text, reference), "bleu_unsmoothed": bleu_unsmoothed(text, reference)}
    return scores | {"meteor": meteor(text, reference)}


def mean_scores(
    texts: Sequence[str], references: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Means of `reference_scores`, and the values of every text behind them.

    Args:
        texts: N texts.
        references: N of them.

    Raises:
        ValueError: no texts, or another number of references.
    """
    if not texts or len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts need as many references, got {len(references)}")
    rows = [reference_scores(a, b) for a, b in zip(texts, references, strict=True)]
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: sum(scores) / len(scores) for name, scores in values.items()}, values
