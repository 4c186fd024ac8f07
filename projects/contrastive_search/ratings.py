"""Blind rating of texts by people: the form, its key, scores by language and system."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.tables import read_csv
from common.evaluation.generation.preference import form_name, place_form, shuffled
from common.evaluation.statistics import paired_bootstrap
from common.files import write_text

CRITERIA = ("coherence", "fluency", "informativeness")
SCALE = (1, 5)
HUMAN = "human"


@dataclass(frozen=True)
class RatingItem:
    """A prefix with the text of every system."""

    language: str
    prefix: str
    texts: Mapping[str, str]  # by system


@dataclass(frozen=True)
class Rating:
    """What one rater gave one text."""

    item: str  # form and number of the prefix
    language: str
    system: str
    scores: Mapping[str, float]  # by criterion


def write_rating_form(form: Path, key: Path, items: Sequence[RatingItem], seed: int = 0) -> int:
    """Write a CSV with one text a row, the systems of an item in random order, and its key.

    The form (``Text, Language, Prefix, Continuation`` and an empty column for each criterion) names
    no system; the key (JSON, text -> item, language, system) stays with the experimenter. Texts are
    named after the form's content, so one key holds any number of forms.

    Args:
        form: what raters fill in; see `place_form` for one that is there already.
        key: what `read_ratings` needs; the texts of this form join those that it holds.
        items: each with the human text among its systems.
        seed: of the orders.

    Returns:
        Number of rows.

    Raises:
        UserError: no item, or items with different systems or without the human text.
    """
    names = sorted(items[0].texts) if items else []
    if HUMAN not in names or any(sorted(item.texts) != names for item in items):
        raise UserError(f"a rating form needs items with the same systems, '{HUMAN}' among them")
    name_of_form = form_name(
        [str(seed), *(text for i in items for text in (i.language, i.prefix, *_flat(i.texts)))]
    )
    rows: list[list[str]] = []
    entries: dict[str, dict[str, str]] = _read_key(key) if key.is_file() else {}
    for number, item in enumerate(items):
        for name in shuffled(names, seed, number):
            text = f"{name_of_form}-{len(rows) + 1}"
            rows.append([text, item.language, item.prefix, item.texts[name], *[""] * len(CRITERIA)])
            entries[text] = {
                "item": f"{name_of_form}-{number}",
                "language": item.language,
                "system": name,
            }
    place_form(form, ["Text", "Language", "Prefix", "Continuation", *CRITERIA], rows)
    write_text(key, json.dumps(entries, indent=1))
    return len(rows)


def read_ratings(forms: Sequence[Path], key: Path) -> list[Rating]:
    """Ratings of forms that were filled in; those of several raters may stand in one file.

    Rows without any score are passed over: a rater need not do all.

    Raises:
        UserError: missing files or columns, a text of another form, or a score off the scale.
    """
    entries, ratings = _read_key(key), []
    for path in forms:
        for number, row in enumerate(read_csv(path, ["Text", *CRITERIA]), start=2):
            if not any(row[name].strip() for name in CRITERIA):
                continue
            if row["Text"] not in entries:
                raise UserError(
                    f"{path}, row {number}: {key} has no text {row['Text']!r}: give the key that "
                    "was written with this form"
                )
            entry = entries[row["Text"]]
            scores = {name: _score(row[name], f"{path}, row {number}, {name}") for name in CRITERIA}
            ratings.append(Rating(entry["item"], entry["language"], entry["system"], scores))
    if not ratings:
        raise UserError(f"{', '.join(map(str, forms))} has no ratings")
    return ratings


def rating_metrics(ratings: Sequence[Rating], seed: int = 0) -> dict[str, float]:
    """Mean scores of every language and system, and paired differences to the human text.

    Several raters of a text are averaged first; a difference is the mean over the items that have
    both, with a 95 % bootstrap interval over items.

    Returns:
        ``<language>_<system>_<criterion>``, with ``_minus_human`` (and its ``_low`` and ``_high``)
        for systems; the criterion "overall" is the mean of the others.
    """
    by_text: dict[tuple[str, str, str], list[Mapping[str, float]]] = defaultdict(list)
    for rating in ratings:
        full = {**rating.scores, "overall": float(np.mean(list(rating.scores.values())))}
        by_text[rating.language, rating.system, rating.item].append(full)
    means = {
        text: {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
        for text, scores in by_text.items()
    }
    metrics: dict[str, float] = {}
    for language, system in dict.fromkeys((language, system) for language, system, _ in means):
        rated = {
            item: s for (lang, name, item), s in means.items() if (lang, name) == (language, system)
        }
        human = {
            item: s for (lang, name, item), s in means.items() if (lang, name) == (language, HUMAN)
        }
        for criterion in (*CRITERIA, "overall"):
            key = f"{language}_{system}_{criterion}"
            metrics[key] = float(np.mean([s[criterion] for s in rated.values()]))
            both = [rated[i][criterion] - human[i][criterion] for i in rated if i in human]
            if system != HUMAN and both:
                metrics[f"{key}_minus_human"] = float(np.mean(both))
            if system != HUMAN and len(both) > 1:
                interval = paired_bootstrap(both, num_samples=2000, seed=seed)
                metrics |= {
                    f"{key}_minus_human_low": interval.low,
                    f"{key}_minus_human_high": interval.high,
                }
    return metrics


def _flat(texts: Mapping[str, str]) -> list[str]:
    return [part for name in sorted(texts) for part in (name, texts[name])]


def _read_key(key: Path) -> dict[str, dict[str, str]]:
    if not key.is_file():
        raise UserError(f"{key} is missing: it was written next to the form")
    try:
        entries: dict[str, dict[str, str]] = json.loads(key.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key} is not a key of a rating form: {error}") from error
    return entries


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not SCALE[0] <= value <= SCALE[1]:
        raise UserError(f"{where}: give a number from {SCALE[0]} to {SCALE[1]}, not {text!r}")
    return value
