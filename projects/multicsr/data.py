"""Training triplets: given, spoilt on purpose or written by a language model, then curated."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.data.lookup import bundled
from common.data.row_map.mapper import MappedRows
from common.data.row_map.parts import Parts
from common.data.samplers import drawn_rows, sample_rng
from common.data.tables import read_jsonl
from common.data.text.sets import load_text_rows
from common.data.text.views import TextViews
from common.distributed.process import barrier, is_rank_zero
from common.families.sentences.data import text_path, text_rows
from projects.multicsr import generation, judges
from projects.multicsr.config import Config, SpoilConfig
from projects.multicsr.graded_triplets import (
    SCORES,
    Curated,
    GradedTriplet,
    read_triplets,
    with_scores,
)
from projects.multicsr.judges import Spoilt

_SPOIL_STREAM, _SYNTHETIC_STREAM = 2**31 + 83, 2**31 + 84
ERRORS = ("unrelated", "reversed", "drifted")


class Prepared(NamedTuple):
    """Triplets that are trained on, all of them with their errors, and what stage 2 did."""

    triplets: list[GradedTriplet]
    rows: list[Spoilt]
    curated: Curated | None


def prepare(cfg: Config, *, kept: bool = False) -> Prepared:
    """Stages 1 and 2 as the config says.

    What a language model wrote or graded is kept for other runs.

    Args:
        cfg: the experiment's config.
        kept: read what is kept, ask no language model and wait for no other process.

    Raises:
        UserError: files that are missing or of the wrong shape; settings of stage 2 that would not
            act; nothing left after a stage; with `kept`, rows of a language model that are not
            there.
    """
    if cfg.stage2.enabled:
        judges.check(cfg)
    rows = triplet_rows(cfg, kept=kept)
    if not cfg.stage2.enabled:
        return Prepared([row.triplet for row in rows], rows, None)
    graded = grade(cfg, [row.triplet for row in rows], kept=kept)
    rows = [Spoilt(triplet, row.error) for triplet, row in zip(graded, rows, strict=True)]
    curated = judges.curated(cfg, rows)
    return Prepared(curated.kept, rows, curated)


def triplet_rows(cfg: Config, *, kept: bool = False) -> list[Spoilt]:
    """Triplets before stage 2; see `prepare`."""
    if cfg.data.generate:
        return [Spoilt(triplet, "") for triplet in generated(cfg, kept=kept)]
    if cfg.data.source == "nli":
        return nli_rows(cfg)
    return [Spoilt(triplet, "") for triplet in given(cfg)]


def given(cfg: Config) -> list[GradedTriplet]:
    """Triplets of the config's file, with scores if it has them.

    Made-up ones for the smoke config.
    """
    data = cfg.data
    if data.source == "synthetic":
        return synthetic(data.limit or 64, cfg.seed)
    if data.source != "file":
        raise UserError(
            f"data.source={data.source} has no triplets: set data.generate=true, or give a CSV with"
            " sent0,sent1,hard_neg in data.file (data.source=file)"
        )
    triplets = read_triplets(text_path(data))
    return [triplets[i] for i in _drawn(len(triplets), data.limit, cfg.seed)]


def given_premises(cfg: Config) -> list[str]:
    """First column of the config's texts, `data.limit` of them."""
    data = cfg.data
    if data.source == "file":
        premises = [row[0] for row in load_text_rows(text_path(data))]
        return [premises[i] for i in _drawn(len(premises), data.limit, cfg.seed)]
    return [row[0] for row in text_rows(data, cfg.seed)]


def distinct(texts: Sequence[str]) -> list[str]:
    """The texts stripped, each once, without blank ones."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def premises(cfg: Config) -> list[str]:
    """What stage 1 writes for."""
    return distinct(given_premises(cfg))


def nli_rows(cfg: Config) -> list[Spoilt]:
    """Bundled NLI triplets with the config's errors; the seed draws both.

    Raises:
        UserError: fewer triplets than `data.limit`.
    """
    path = bundled("nli", cfg.data.root) / "triplets-train.jsonl.gz"
    names = ("premise", "entailment", "contradiction", "neutral")
    rows = [
        tuple(str(row[name]) for name in names)
        for row in read_jsonl(path, names)
        if all(row[name] for name in names)
    ]
    rows = [rows[i] for i in _drawn(len(rows), cfg.data.limit, cfg.seed)]
    return spoilt(rows, cfg.data.spoil, cfg.seed)


def spoilt(rows: Sequence[tuple[str, ...]], spoil: SpoilConfig, seed: int) -> list[Spoilt]:
    """Triplets of (premise, entailment, contradiction, neutral), some of them with one error.

    Args:
        rows: N rows.
        spoil: exact shares of the errors, rounded.
        seed: of which triplets, and of the foreign positives.
    """
    rng = sample_rng(seed, 0, 0, _SPOIL_STREAM)
    counts = [round(getattr(spoil, name) * len(rows)) for name in ERRORS]
    names = [name for name, count in zip(ERRORS, counts, strict=True) for _ in range(count)]
    errors = dict(zip(rng.permutation(len(rows)).tolist(), names, strict=False))
    triplets = []
    for i, (premise, positive, negative, neutral) in enumerate(rows):
        error = errors.get(i, "")
        if error == "unrelated":
            others = (int(j) for j in iter(lambda: rng.integers(len(rows)), None))
            positive = next(rows[j][1] for j in others if rows[j][0] != premise or len(rows) == 1)
        elif error == "reversed":
            positive, negative = negative, positive
        elif error == "drifted":
            positive = neutral
        triplets.append(Spoilt(GradedTriplet(premise, positive, negative), error))
    return triplets


def synthetic(count: int, seed: int) -> list[GradedTriplet]:
    """Made-up triplets: four words, the same in another order, two of them exchanged; no files."""
    lexicon = [
        "red",
        "small",
        "old",
        "cat",
        "dog",
        "man",
        "sleeps",
        "runs",
        "eats",
        "house",
        "tree",
        "sees",
    ]
    triplets = []
    for i in range(count):
        rng = sample_rng(seed, 0, i, _SYNTHETIC_STREAM)
        chosen = [lexicon[j] for j in rng.permutation(len(lexicon))]
        words, other = chosen[:4], [*chosen[:2], *chosen[4:6]]
        triplets.append(
            GradedTriplet(" ".join(words), " ".join(reversed(words)), " ".join(other), 4.5, 1.5)
        )
    return triplets


# -- stages that are kept --------------------------------------------------------------------------


def generated(cfg: Config, *, kept: bool = False) -> list[GradedTriplet]:
    """Triplets of stage 1: written by one process where they are not kept, then read by all.

    Raises:
        UserError: no answers; with `kept`, rows that are missing.
    """
    texts = premises(cfg)
    folder = kept_folder(cfg, "stage1", generation.settings(cfg.stage1), texts)
    if kept:
        return generation.written(texts, list(Parts.opened(folder).rows()))
    if is_rank_zero():
        generation.write_records(cfg.stage1, texts, folder, cfg.seed)
    barrier()
    done = generation.write_records(cfg.stage1, texts, folder, cfg.seed)
    return generation.written(texts, list(done.rows()))


def grade(
    cfg: Config, triplets: Sequence[GradedTriplet], *, kept: bool = False
) -> list[GradedTriplet]:
    """Triplets with the scores of the config's judge; see `prepare`.

    Raises:
        UserError: judge=file without scores; with `kept`, rows that are missing.
    """
    options = cfg.stage2
    if options.judge == "file":
        if options.scores is not None:
            path = Path(options.scores).expanduser()
            return with_scores(triplets, read_triplets(path), path)
        if all(t.positive_score is None for t in triplets):
            raise UserError(
                f"stage 2 needs scores: columns {' and '.join(SCORES)} in data.file, or a file of "
                "`make run PROJECT=multicsr TASK=score` in stage2.scores, or stage2.judge=lm"
            )
        return list(triplets)
    if options.judge == "overlap":
        return judges.grade_triplets(triplets, judges.overlap_grades)
    if options.judge == "words":
        return judges.grade_triplets(triplets, judges.word_grades(cfg.data.root))
    folder = kept_folder(cfg, "stage2", judges.lm_settings(options), [t.key for t in triplets])
    if kept:
        return judges.scored_by(triplets, Parts.opened(folder).rows())
    if is_rank_zero():
        judges.lm_scored(options, triplets, folder)
    barrier()
    return judges.lm_scored(options, triplets, folder)[1]


def kept_folder(cfg: Config, stage: str, settings: Any, texts: Sequence[str]) -> Path:
    """Where a stage's rows of these texts and settings are kept for other runs."""
    used = json.dumps([settings, cfg.seed if stage == "stage1" else 0, list(texts)], sort_keys=True)
    digest = hashlib.sha256(used.encode()).hexdigest()[:16]
    return Path(cfg.runs_dir) / "multicsr" / "offline" / f"{stage}-{digest}"


def report(done: MappedRows, triplets: Sequence[GradedTriplet], path: Path) -> str:
    """One line on a finished task."""
    return f"{done.summary}; {len(triplets)} triplets in {path}"


def views(cfg: Config, prepared: Prepared, tokenizer: Any) -> TextViews:
    """The training set: three views of every triplet.

    Raises:
        UserError: fewer triplets than a batch.
    """
    rows = [triplet.texts for triplet in prepared.triplets]
    if len(rows) < cfg.data.batch_size:
        raise UserError(
            f"{len(rows)} triplets are fewer than data.batch_size={cfg.data.batch_size}"
        )
    return TextViews(rows, tokenizer, max_length=cfg.data.max_length, seed=cfg.seed)


def _drawn(total: int, limit: int | None, seed: int) -> list[int]:
    if limit is None:
        return list(range(total))
    rows: list[int] = drawn_rows(total, limit, seed, 2**31 + 2, "rows").tolist()
    return rows
