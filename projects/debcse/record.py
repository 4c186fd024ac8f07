"""Statistics of the drawn pairs: what was drawn, against supervised pairs.

Never used in training.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from common.data.samplers import sample_rng
from common.data.text.lexical import surface_similarity, words
from common.data.text.sets import load_nli_pairs
from common.data.text.synthetic import synthetic_sentence_pairs
from common.evaluation.text.sts import pair_cosine
from projects.debcse.config import Config
from projects.debcse.data import length_difference
from projects.debcse.mining import Mined
from projects.debcse.sampling import PairSampler

Encode = Callable[[list[str]], Tensor]
Labels = Mapping[frozenset[str], str]

FEATURES = ("surface", "semantic", "length_ratio")
SIDES = ("positive", "negative")
SAMPLE = 1000  # pairs of each kind whose features are kept
STATISTICS = 10_000  # anchors that the shares and means are taken over
EXAMPLES = 8  # anchors shown with their pairs
SUMMARY = (
    "theta_pos",
    "theta_neg",
    "positive_fallback_rate",
    "negative_fallback_rate",
    "positive_effective",
    "negative_effective",
    "positive_length_difference",
    "positive_self_share",
    "positive_entailment_share",
    "positive_entailment_share_most",
    "positive_contradiction_share",
    "negative_same_meaning_share",
    "random_negative_same_meaning_share",
)
STREAM = 47


class PairRecord(nn.Module):
    """Buffers of fixed shape, so that they travel with every checkpoint; empty until filled.

    Attributes:
        drawn: (2, SAMPLE, 3) features of drawn positives and negatives.
        supervised: (2, SAMPLE, 3) features of entailment and contradiction pairs.
        counts: (2, 2) rows in use of the two.
        examples: (EXAMPLES, 3) text ids of anchor, positive, negative; -1: none.
        example_scores: (EXAMPLES, 2, 2) s and m of positive and negative.
        summary: one number for each name in SUMMARY; NaN: not known.
    """

    drawn: Tensor
    supervised: Tensor
    counts: Tensor
    examples: Tensor
    example_scores: Tensor
    summary: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.zeros(2, SAMPLE, len(FEATURES)))
        self.register_buffer("supervised", torch.zeros(2, SAMPLE, len(FEATURES)))
        self.register_buffer("counts", torch.zeros(2, 2, dtype=torch.long))
        self.register_buffer("examples", torch.full((EXAMPLES, 3), -1))
        self.register_buffer("example_scores", torch.zeros(EXAMPLES, 2, 2))
        self.register_buffer("summary", torch.full((len(SUMMARY),), math.nan))

    @property
    def filled(self) -> bool:
        """Whether pairs were drawn."""
        return bool(self.counts.sum() > 0)

    def features(self, kind: str, side: int) -> np.ndarray:
        """(M, 3) features of "drawn" or "supervised" pairs."""
        count = int(self.counts[("drawn", "supervised").index(kind), side])
        table: np.ndarray = getattr(self, kind)[side, :count].cpu().numpy()
        return table

    def fill(
        self, mined: Mined, sampler: PairSampler, supervised: Sequence[np.ndarray], labels: Labels
    ) -> None:
        """Draw the pairs of the first epoch for a sample of anchors and note what they are like.

        Args:
            mined: texts and pools.
            sampler: what the training draws with.
            supervised: (M, 3) features of entailment and of contradiction pairs.
            labels: NLI label of pairs of corpus sentences, where known.
        """
        count = mined.pools.num_anchors
        anchors = sample_rng(sampler.seed, 0, 0, STREAM).permutation(count)[:STATISTICS]
        draws = sampler.draw(anchors, np.zeros(len(anchors), dtype=np.int64))
        sizes = mined.surface.word_counts
        for side in range(2):
            scored = ~np.isnan(draws.semantic[:, side])
            scored &= draws.ids[:, side] != anchors  # a dropout twin is not a pair of sentences
            scored = np.flatnonzero(scored)[:SAMPLE]
            ids = draws.ids[scored, side]
            ratio = length_ratio(sizes[anchors[scored]], sizes[ids])
            table = np.stack(
                [draws.surface[scored, side], draws.semantic[scored, side], ratio], axis=1
            )
            self._store(self.drawn, 0, side, table)
            self._store(self.supervised, 1, side, supervised[side][:SAMPLE])
        order = np.argsort(draws.ids[:, 0] == anchors, kind="stable")[:EXAMPLES]
        rows = np.concatenate([anchors[order, None], draws.ids[order]], axis=1)
        scores = np.stack([draws.surface[order], draws.semantic[order]], axis=2)
        self.examples[: len(order)] = torch.from_numpy(rows)
        self.example_scores[: len(order)] = torch.from_numpy(scores).float()
        values = {
            "theta_pos": mined.pools.theta_pos,
            "theta_neg": mined.pools.theta_neg,
            "positive_length_difference": float(length_difference(draws, sizes).mean()),
            "positive_self_share": float((draws.ids[:, 0] == anchors).mean()),
        }
        for side, name in enumerate(SIDES[: 2 if (draws.ids[:, 1] >= 0).any() else 1]):
            values[f"{name}_fallback_rate"] = float(draws.fallback[:, side].mean())
            values[f"{name}_effective"] = float(draws.effective[:, side].mean())
        values |= label_shares(mined.texts[:count], anchors, draws.ids, labels)
        self.summary.copy_(torch.tensor([values.get(name, math.nan) for name in SUMMARY]))

    def _store(self, buffer: Tensor, row: int, side: int, table: np.ndarray) -> None:
        buffer[side, : len(table)] = torch.from_numpy(np.ascontiguousarray(table)).float()
        self.counts[row, side] = len(table)


def label_shares(
    corpus: Sequence[str], anchors: np.ndarray, ids: np.ndarray, labels: Labels
) -> dict[str, float]:
    """How often drawn pairs are known to entail or to contradict each other.

    Positives: share of the drawn neighbours (twins left out) with each label, among anchors that
    have a labelled partner; ``positive_entailment_share_most`` is what a perfect draw would reach,
    the share of those anchors that have an entailment partner. Negatives: share of same-meaning
    (entailment) pairs among anchors that have such a partner, for the draw and for a random other
    sentence.

    Args:
        corpus: N sentences.
        anchors: (B,) ids.
        ids: (B, 2) drawn ids, -1: none.
        labels: of pairs of sentences.

    Returns:
        Shares by name; none where no pair is labelled.
    """
    number = {text: i for i, text in enumerate(corpus)}
    partners: dict[int, dict[int, str]] = {}
    for pair, label in labels.items():
        places = [number[text] for text in pair if text in number]
        if len(places) == 2:
            partners.setdefault(places[0], {})[places[1]] = label
            partners.setdefault(places[1], {})[places[0]] = label
    shares: dict[str, list[float]] = {}
    for anchor, (positive, negative) in zip(anchors.tolist(), ids.tolist(), strict=True):
        partner = partners.get(anchor)
        if partner is None:
            continue
        same = sum(label == "entailment" for label in partner.values())
        if 0 <= positive < len(corpus) and positive != anchor:
            for label in ("entailment", "contradiction"):
                hit = partner.get(positive) == label
                shares.setdefault(f"positive_{label}_share", []).append(hit)
            shares.setdefault("positive_entailment_share_most", []).append(same > 0)
        if same and negative >= 0:
            hit = partner.get(negative) == "entailment"
            shares.setdefault("negative_same_meaning_share", []).append(hit)
            random = same / (len(corpus) - 1)
            shares.setdefault("random_negative_same_meaning_share", []).append(random)
    return {name: float(np.mean(values)) for name, values in shares.items()}


def nli_labels(cfg: Config) -> dict[frozenset[str], str]:
    """Labels of the NLI pairs whose sentences may be in the corpus, for diagnostics only."""
    if not (cfg.data.nli_sentences or cfg.data.source == "nli"):
        return {}
    rows = load_nli_pairs(cfg.data.root, "train")
    return {frozenset((a, b)): label for a, b, label in rows if a != b}


def supervised_features(cfg: Config, encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    """(M, 3) features of held-back entailment pairs and of contradiction pairs.

    Args:
        cfg: the experiment's config.
        encode: the scorer.
    """
    kinds: list[list[tuple[str, str]]]
    if cfg.data.source == "synthetic":
        pairs = list(zip(*synthetic_sentence_pairs(SAMPLE // 4, seed=3), strict=True))
        kinds = [[(a, b) for a, b, x in pairs if x >= 4], [(a, b) for a, b, x in pairs if x <= 1]]
    else:
        rows = load_nli_pairs(cfg.data.root, "test")
        kinds = [
            [(a, b) for a, b, x in rows if x == label][:SAMPLE]
            for label in ("entailment", "contradiction")
        ]
    tables = []
    for kind in kinds:
        first, second = [a for a, _ in kind], [b for _, b in kind]
        sizes = [np.array([len(words(text)) for text in side]) for side in (first, second)]
        tables.append(
            np.stack(
                [
                    surface_similarity(first, second, cfg.surface.kind),
                    pair_cosine(encode(first), encode(second)).numpy(),
                    length_ratio(*sizes),
                ],
                axis=1,
            )
        )
    return tables[0], tables[1]


def length_ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Shorter over longer number of words, in [0, 1]."""
    ratio: np.ndarray = np.minimum(first, second) / np.maximum(np.maximum(first, second), 1)
    return ratio


def distances(record: PairRecord) -> dict[str, float]:
    """1-D Wasserstein distance between drawn and supervised pairs, per side and feature.

    Returns:
        ``<side>_<feature>_distance``; sides without drawn or supervised pairs are left out.
    """
    from scipy.stats import wasserstein_distance

    metrics = {}
    for side, name in enumerate(SIDES):
        drawn, supervised = record.features("drawn", side), record.features("supervised", side)
        if len(drawn) and len(supervised):
            for column, feature in enumerate(FEATURES):
                distance = wasserstein_distance(drawn[:, column], supervised[:, column])
                metrics[f"{name}_{feature}_distance"] = float(distance)
    return metrics
