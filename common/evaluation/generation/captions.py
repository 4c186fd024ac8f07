"""Captions against several references each: CIDEr-D, BLEU, ROUGE-L, METEOR.

Words are lower-case Treebank tokens without punctuation. The official evaluation cuts with
Stanford's PTB tokenizer, a Java program. Against its release 3.4.1, called as the evaluation does:
abbreviations have no last full stop here ("u.s" for "u.s.", "mr" for "mr."), a single quote before
a word stays with it, and brackets are left out, where the evaluation counts them as words ("-lrb-";
its list of punctuation has "-LRB-" alone).
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from common.evaluation.generation.reference import meteor

# what the official evaluation leaves out, and brackets
PUNCTUATION = frozenset(
    [
        "''",
        "'",
        "``",
        "`",
        ".",
        "?",
        "!",
        ",",
        ":",
        "-",
        "--",
        "...",
        ";",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
    ]
)
# at the end of a word; the Treebank tokenizer cuts that of a text's last word alone
FULL_STOP = re.compile(r"\.+(?=[\])}>\"']*(?:\s|$))")
ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
ROUGE_BETA = 1.2  # recall counts so many times as much as precision
Grams = dict[tuple[str, ...], float]


@cache
def _treebank() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer()


def caption_words(text: str) -> list[str]:
    """Words of a caption; full stops at the end of a word go, wherever it stands.

    >>> caption_words("A man's dog, running. It is 3.5 m long.")
    ['a', 'man', "'s", 'dog', 'running', 'it', 'is', '3.5', 'm', 'long']
    """
    line = FULL_STOP.sub(" ", " ".join(text.lower().split()))
    tokens = _treebank().tokenize(line)
    return [t for t in tokens if t not in PUNCTUATION]


def _counts(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for n in ORDERS for i in range(len(words) - n + 1))


class Cider:
    """CIDEr-D with the document frequencies of a set of references.

        10/4 sum_n 1/M sum_j exp(-(l(c) - l(r_j))^2 / 2 sigma^2) min(g_n(c), g_n(r_j)) . g_n(r_j)
                       / (|g_n(c)| |g_n(r_j)|)

    with g_n the TF-IDF vector of the n-grams and sigma = 6.

    Source: Vedantam, Zitnick & Parikh 2015, "CIDEr", section 3 and the variant CIDEr-D, arXiv
    1411.5726; as in the COCO evaluation, l(.) counts bigrams, the logarithm of the number of images
    is that of the set.

    Args:
        references: M_i texts for each of N images; the document frequency of an n-gram is the
            number of images with it in any reference.

    Raises:
        ValueError: no images, or one without references.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        if not references or not all(references):
            raise ValueError("CIDEr needs at least one reference for every image")
        self.references = [[_counts(caption_words(t)) for t in texts] for texts in references]
        frequencies: Counter[tuple[str, ...]] = Counter()
        for captions in self.references:
            frequencies.update({gram for counts in captions for gram in counts})
        self.frequency, self.log_images = frequencies, math.log(len(references))

    def scores(self, texts: Sequence[str]) -> list[float]:
        """CIDEr-D of one text an image, in [0, 10] each."""
        return [
            self._score(_counts(caption_words(text)), captions)
            for text, captions in zip(texts, self.references, strict=True)
        ]

    def _vectors(self, counts: Counter[tuple[str, ...]]) -> tuple[list[Grams], list[float], int]:
        vectors: list[Grams] = [{} for _ in ORDERS]
        length = 0
        for gram, count in counts.items():
            rarity = self.log_images - math.log(max(1.0, self.frequency[gram]))
            vectors[len(gram) - 1][gram] = count * rarity
            length += count if len(gram) == 2 else 0
        return (
            vectors,
            [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors],
            length,
        )

    def _score(
        self, text: Counter[tuple[str, ...]], captions: Sequence[Counter[tuple[str, ...]]]
    ) -> float:
        vectors, norms, length = self._vectors(text)
        total = 0.0
        for reference in captions:
            others, other_norms, other_length = self._vectors(reference)
            penalty = math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))
            for n in range(len(ORDERS)):
                product = sum(
                    min(v, others[n].get(g, 0.0)) * others[n].get(g, 0.0)
                    for g, v in vectors[n].items()
                )
                if norms[n] and other_norms[n]:
                    total += penalty * product / (norms[n] * other_norms[n])
        return 10.0 * total / (len(ORDERS) * len(captions))


def corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]], order: int) -> float:
    """BLEU of sets of captions in [0, 1], with the closest reference length and no smoothing.

    Args:
        texts: N captions.
        references: M_i for each.
        order: longest n-grams.

    >>> corpus_bleu(["a red bus"], [["a red bus", "the bus"]], 2)
    1.0
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(max_ngram_order=order, smooth_method="none", tokenize="none", force=True)
    most = max(map(len, references))
    lines = [" ".join(caption_words(text)) for text in texts]
    # an image with fewer references has None in the further columns
    columns: Any = [
        [
            " ".join(caption_words(captions[j])) if j < len(captions) else None
            for captions in references
        ]
        for j in range(most)
    ]
    return round(float(metric.corpus_score(lines, columns).score) / 100, 12)


def coco_rouge_l(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of the largest precision and the largest recall over the references.

        (1 + b^2) P R / (R + b^2 P),  P = max_j l(c, r_j) / |c|,  R = max_j l(c, r_j) / |r_j|

    with l the length of the longest common subsequence and b = 1.2.

    Source: Lin 2004, "ROUGE", section 3.1; for captions: Chen et al. 2015, "Microsoft COCO
    Captions", arXiv
    1504.00325, and its evaluation code (tylin/coco-caption).

    Args:
        words: c, as `caption_words` gives them.
        references: r_j, at least one, in the same form.

    Returns:
        In [0, 1]; 0 without a common word.

    >>> f"{coco_rouge_l(['a', 'red', 'bus'], [['a', 'bus']]):.4f}"  # P = 2 / 3, R = 1
    '0.8299'
    """
    common = [_longest_common(words, other) for other in references]
    if not any(common):
        return 0.0
    precision = max(common) / len(words)
    recall = max(n / max(1, len(other)) for n, other in zip(common, references, strict=True))
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _longest_common(words: Sequence[str], others: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(others) + 1)  # with the first j of the others
    for word in words:
        diagonal = 0
        for j, other in enumerate(others, start=1):
            above = lengths[j]
            lengths[j] = diagonal + 1 if word == other else max(above, lengths[j - 1])
            diagonal = above
    return lengths[-1]


def caption_metrics(
    texts: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """``cider`` (x 100 as published), ``bleu_1`` to ``bleu_4``, ``rouge_l``, ``meteor``.

    And item values.

    All measures see the same words of captions and references. METEOR is the best score over the
    references (words and stems, no synonyms; another version than the official one, see
    `reference`). BLEU has no items.

    Args:
        texts: N captions.
        references: M_i >= 1 for each.
    """
    words = [caption_words(text) for text in texts]
    expected = [[caption_words(text) for text in captions] for captions in references]
    rows = list(zip(words, expected, strict=True))
    items = {
        "cider": [100 * v for v in Cider(references).scores(texts)],
        "rouge_l": [coco_rouge_l(text, captions) for text, captions in rows],
        "meteor": [
            max(meteor(" ".join(text), " ".join(r)) for r in captions) for text, captions in rows
        ],
    }
    means = {name: sum(values) / len(values) for name, values in items.items()}
    return means | {f"bleu_{n}": corpus_bleu(texts, references, n) for n in ORDERS}, items
