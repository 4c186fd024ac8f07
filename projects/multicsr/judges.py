"""Stage 2: what grades the similarity of a pair in [0, 5], and the curation of triplets with it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.config import UserError
from common.data.lines import one_line
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import MappedRows, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.text.lexical import words
from common.data.text.sets import load_nli_pairs
from common.decoding.language_model import LanguageModel
from common.decoding.options import Policy
from common.evaluation.text.pair_baselines import tfidf_cosine
from projects.multicsr.config import Config, SpoilConfig, Stage2Config
from projects.multicsr.generation import (
    DECODING,
    end_of_answer,
    in_frame,
    load_model,
    takes_turns,
)
from projects.multicsr.graded_triplets import (
    Curated,
    GradedTriplet,
    TripletFilter,
    curate,
    parse_grade,
    preset,
    unreversed,
)
from projects.multicsr.prompts import first_line, similarity_prompt

Pair = tuple[str, str]
Grades = Callable[[Sequence[Pair]], list[float | None]]
DIGITS = tuple("012345")
CHUNK_BATCHES = 16
ANSWER_TOKENS = 5
UNRELATED = "unrelated"
GRADES = {"entailment": 5.0, "neutral": 2.5, "contradiction": 0.0, UNRELATED: 0.0}
_STREAM, _RANDOM_STREAM = 2**31 + 81, 2**31 + 82


# -- a language model ----------------------------------------------------------------------------


def build_lm_judge(cfg: Stage2Config) -> RowFunction:
    """Pairs of a chunk -> the answer, and its grade or None.

    Raises:
        UserError: absent weights, or the expectation of a model that is not causal.
    """
    model = load_model(cfg.score_model)
    if cfg.read == "expectation" and not isinstance(model, LanguageModel):
        raise UserError("stage2.read=expectation is for causal models: set stage2.read=text")

    def judge(pairs: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, Any]]:
        prompts = [
            in_frame(model, similarity_prompt(first, second, cfg.prompt)) for first, second in pairs
        ]
        if cfg.read == "expectation":
            assert isinstance(model, LanguageModel)
            return [
                {"answer": None, "grade": g}
                for g in expected_grades(model, prompts, cfg.batch_size)
            ]
        rngs = [seed.rng(0) for seed in seeds]  # greedy: never drawn from
        answers = model.continuations(
            prompts,
            Policy("greedy"),
            rngs,
            ANSWER_TOKENS,
            batch_size=cfg.batch_size,
            stop=end_of_answer(model),
        )
        return [
            {"answer": one_line(a.text), "grade": parse_grade(first_line(a.text))} for a in answers
        ]

    return judge


def expected_grades(model: LanguageModel, prompts: Sequence[str], batch_size: int) -> list[float]:
    """Mean of the digits 0 to 5 under their probabilities as the next word.

    An answer's turn of a chat template begins with the digit, any other prompt is followed by a
    space.
    """
    joint = "" if takes_turns(model) else " "
    asked = [prompt for prompt in prompts for _ in DIGITS]
    means = model.log_likelihood(asked, DIGITS * len(prompts), batch_size, joint=joint)
    # of a digit of several tokens the whole: a mean would be a temperature above 1
    tokens = [
        len(model.token_ids(f"{prompt}{joint}{digit}", True)) - len(model.token_ids(prompt, True))
        for prompt in prompts
        for digit in DIGITS
    ]
    scores = means.double() * torch.tensor(tokens, dtype=torch.double)
    p = scores.reshape(len(prompts), len(DIGITS)).softmax(dim=1)
    expected: list[float] = (p @ torch.arange(len(DIGITS), dtype=p.dtype)).tolist()
    return expected


# -- judges without a language model
# ----------------------------------------------------------------


def overlap_grades(pairs: Sequence[Pair]) -> list[float | None]:
    """Five times the TF-IDF cosine."""
    return [5 * value for value in tfidf_cosine(*map(list, zip(*pairs, strict=True)))]


class WordJudge:
    """Classifier on words, trained on labelled NLI pairs of premises on one side of a hash.

    It reads the second sentence's words and pairs of words, and how the two sentences overlap. A
    grade is the mean of the classes' grades under their probabilities, rounded to a tenth as a
    model
    answers: entailment 5, neutral 2.5, contradiction 0, and 0 for the hypothesis of another
    premise.

    Args:
        rows: (premise, hypothesis, label).
    """

    def __init__(self, rows: Sequence[tuple[str, str, str]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        pairs, labels = [row[:2] for row in rows], [row[2] for row in rows]
        order = sample_rng(0, 0, 0, _STREAM).permutation(len(rows))[: len(rows) // 3]
        foreign = np.roll(order, 1)
        pairs += [(rows[i][0], rows[j][1]) for i, j in zip(order, foreign, strict=True)]
        labels += [UNRELATED] * len(order)
        self.rarity = TfidfVectorizer(analyzer=words).fit([text for pair in pairs for text in pair])
        self.terms = TfidfVectorizer(analyzer=_terms, min_df=3).fit([row[1] for row in rows])
        self.model = LogisticRegression(max_iter=1000).fit(self._features(pairs), labels)
        self.grades = np.array([GRADES[label] for label in self.model.classes_])

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """Grades of pairs."""
        scores: list[float] = (
            (self.model.predict_proba(self._features(pairs)) @ self.grades).round(1).tolist()
        )
        return scores

    def _features(self, pairs: Sequence[Pair]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        rare = self.rarity.transform(first).multiply(self.rarity.transform(second)).sum(axis=1)
        overlap = np.column_stack([_overlap(pairs), np.asarray(rare)])
        dense = csr_matrix(np.column_stack([overlap, overlap**2]))
        return hstack([dense, self.terms.transform(second)]).tocsr()


def word_grades(root: str | None) -> Grades:
    """Grades by two `WordJudge`: a pair is graded by the one that saw no label of its premise."""
    rows = [row for row in load_nli_pairs(root) if all(row)]
    folds = [WordJudge([row for row in rows if _side(row[0]) != side]) for side in (False, True)]

    def grades(pairs: Sequence[Pair]) -> list[float | None]:
        answers: list[float | None] = [None] * len(pairs)
        for side, judge in zip((False, True), folds, strict=True):
            places = [i for i, pair in enumerate(pairs) if _side(pair[0]) == side]
            if places:
                for i, grade in zip(places, judge([pairs[i] for i in places]), strict=True):
                    answers[i] = grade
        return answers

    return grades


def _side(premise: str) -> bool:
    return stable_fraction(premise) < 0.5


def _terms(text: str) -> list[str]:
    single = words(text)
    return [*single, *(f"{a} {b}" for a, b in pairwise(single))]


def _overlap(pairs: Sequence[Pair]) -> np.ndarray:
    overlaps = []
    for first, second in pairs:
        a, b = set(words(first)), set(words(second))
        both, longest = len(a & b), max(1, len(a | b))
        denied = [bool(side & {"not", "no", "never", "nobody"}) for side in (a, b)]
        overlaps.append(
            (
                both / max(1, len(b)),
                both / max(1, len(a)),
                both / longest,
                float(denied[0] != denied[1]),
                min(len(b) / max(1, len(a)), 2.0),
            )
        )
    return np.array(overlaps)


# -- triplets ------------------------------------------------------------------------------------


def grade_triplets(triplets: Sequence[GradedTriplet], grades: Grades) -> list[GradedTriplet]:
    """Triplets with a = grade(premise, positive) and b = grade(premise, negative)."""
    count = len(triplets)
    scores = grades(
        [(t.sent0, t.sent1) for t in triplets] + [(t.sent0, t.hard_neg) for t in triplets]
    )
    return [
        t._replace(positive_score=a, negative_score=b)
        for t, a, b in zip(triplets, scores[:count], scores[count:], strict=True)
    ]


def lm_scored(
    cfg: Stage2Config,
    triplets: Sequence[GradedTriplet],
    folder: Path,
    options: RowMapConfig | None = None,
    display: Any = None,
) -> tuple[MappedRows, list[GradedTriplet]]:
    """Triplets graded by the config's language model, in files of `folder`.

    Returns:
        The mapping, and the graded triplets: none while other shares are missing.

    Raises:
        UserError: the folder was made from other triplets or with another model.
    """
    pairs = [[t.sent0, other] for t in triplets for other in (t.sent1, t.hard_neg)]
    step = RowMap(
        "score",
        partial(build_lm_judge, cfg),
        lm_settings(cfg),
        chunk_size=cfg.batch_size * CHUNK_BATCHES,
    )
    done = map_rows(step, pairs, folder, options, display)
    return done, scored_by(triplets, done.rows()) if done.complete else []


def lm_settings(cfg: Stage2Config) -> dict[str, Any]:
    """What a language model's grades depend on besides the pairs."""
    read = {"text": f"text, {DECODING}", "expectation": "expectation of whole digits"}[cfg.read]
    prompt = similarity_prompt("", "", cfg.prompt)
    return {"model": cfg.score_model, "read": read, "batch_size": cfg.batch_size, "prompt": prompt}


def scored_by(
    triplets: Sequence[GradedTriplet], rows: Iterable[dict[str, Any]]
) -> list[GradedTriplet]:
    """Triplets with the grades of a judge's rows, two of each triplet: a, then b."""
    grades = [row["grade"] for row in rows]
    return [
        t._replace(positive_score=a, negative_score=b)
        for t, a, b in zip(triplets, grades[::2], grades[1::2], strict=True)
    ]


def rule_of(cfg: Stage2Config) -> TripletFilter:
    """The three inequalities of the config.

    Raises:
        UserError: own thresholds next to a preset, which has its own; a gap next to one without.
    """
    if cfg.preset is None:
        return TripletFilter(cfg.alpha, cfg.beta, cfg.gamma, cfg.gap_mode)
    options, plain = preset(cfg.preset, cfg.gamma), Stage2Config()
    if (cfg.alpha, cfg.beta) not in ((plain.alpha, plain.beta), (options.alpha, options.beta)):
        raise UserError(
            f"stage2.preset={cfg.preset} has thresholds of its own"
            f" ({options.alpha:g}, {options.beta:g}): "
            "leave stage2.alpha and stage2.beta out, or the preset"
        )
    if cfg.gamma not in (plain.gamma, options.gamma):
        raise UserError(
            f"stage2.preset={cfg.preset} asks for no gap: leave stage2.gamma out, or take a preset "
            "with one (13, 15, 18)"
        )
    return TripletFilter(options.alpha, options.beta, options.gamma, cfg.gap_mode)


def check(cfg: Config) -> None:
    """Refuse settings of stage 2 that would not act, before a language model is asked.

    Raises:
        UserError: as `rule_of`; an oracle where no errors were made.
    """
    rule_of(cfg.stage2)
    if cfg.stage2.keep == "oracle" and cfg.data.spoil == SpoilConfig():
        raise UserError(
            "stage2.keep=oracle drops the errors that data.spoil makes: set one of its shares above"
            " 0, or another stage2.keep"
        )


class Spoilt(NamedTuple):
    """A triplet and the error that was made in it on purpose; "" for none."""

    triplet: GradedTriplet
    error: str


def curated(cfg: Config, rows: Sequence[Spoilt]) -> Curated:
    """What stage 2 leaves of graded triplets: by the rule, or as many by a control.

    Controls: drawn at random; those that hold the rule best under overlap of words; those without
    error. Only the rule and the overlap put reversed triplets right.

    Raises:
        UserError: nothing is left.
    """
    options, triplets = cfg.stage2, [row.triplet for row in rows]
    rule = rule_of(options)
    kept = curate(triplets, rule.keeps)
    count = len(kept.kept)
    if options.keep != "rule":
        plain = [t._replace(positive_score=None, negative_score=None) for t in triplets]
        if options.keep == "overlap":
            plain = [unreversed(t) for t in grade_triplets(plain, overlap_grades)]
            order = sorted(range(len(plain)), key=lambda i: -rule.slack(plain[i]))
        else:
            order = list(sample_rng(cfg.seed, 0, 0, _RANDOM_STREAM).permutation(len(plain)))
        if options.keep == "oracle":
            order = [i for i in order if not rows[i].error]
        places = sorted(int(i) for i in order[:count])
        swapped = [i for i, t in enumerate(plain) if t.sent1 != triplets[i].sent1]
        kept = Curated(
            [plain[i] for i in places], places, len(plain), 0, swapped, *[float("nan")] * 2
        )
    if not kept.kept:
        raise UserError(
            f"stage 2 keeps none of {len(triplets)} triplets ({kept.unscored} without a score): "
            "lower stage2.alpha or stage2.gamma, raise stage2.beta, or take another judge"
        )
    return kept
