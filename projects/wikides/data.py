"""Rows of both phases: read, made up, checked, and reduced to different candidates."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.config import UserError
from common.data.lookup import bundled, data_root, require
from common.data.samplers import sample_rng
from common.data.synthetic_words import SYLLABLES
from common.data.tables import read_jsonl
from common.engine.callbacks import step_seed
from common.engine.experiment import Requirement, bundled_requirement
from projects.wikides.beam_sweep import distinct
from projects.wikides.config import Config, Part

RANKING, DESCRIBING = "wikides-ranking", "wikides"  # below data/
SYNTHETIC = {"train": 64, "dev": 24, "test": 24}
_NAMES = {"train": "training", "dev": "validation", "test": "test"}  # of the release
_SPLIT_STREAM, _MADE_STREAM = 74, 75
_HELD = 0.1  # of the bundled training rows of phase I, for validation


class Row(NamedTuple):
    """A paragraph."""

    source: str
    target: str  # gold description
    candidates: tuple[str, ...]  # different ones, in the file's order; none in phase I
    phase1: str | None = None  # what phase I alone writes; None: the file doesn't tell
    baseline: str | None = None  # the first name of an instance, "" without one; None: as above


def first_seed(cfg: Config) -> int:
    """What the engine seeds with before the first stage is built."""
    return step_seed(cfg.seed, 0, 0, 0)


def load_rows(cfg: Config, part: Part) -> list[Row]:
    """Rows of a part, filtered as the config says.

    Raises:
        UserError: missing or damaged files, or no row left.
    """
    rows = _all_rows(cfg, part)
    if cfg.phase == "rank":
        rows = [row for row in rows if len(row.candidates) >= cfg.data.min_candidates]
        if part == "train" and cfg.data.drop_gold:
            rows = [row for row in rows if row.target not in row.candidates]
    if part == "train" and cfg.data.limit is not None and cfg.data.limit < len(rows):
        order = sample_rng(cfg.seed, 0, 0, _SPLIT_STREAM).permutation(len(rows))
        rows = [rows[i] for i in sorted(order[: cfg.data.limit].tolist())]
    if part != "train":
        most = cfg.data.eval_candidates
        rows = [r._replace(candidates=r.candidates[:most]) for r in rows[: cfg.data.eval_limit]]
    if not rows:
        raise UserError(f"the {part} part has no row {_wanted(cfg, part)}")
    return rows


def _wanted(cfg: Config, part: Part) -> str:
    """What a row must have, and what to do where none has it."""
    if cfg.phase == "describe":
        return "with a source and a target; give a file with some"
    candidates = f"with data.min_candidates={cfg.data.min_candidates} different candidates"
    if part == "train" and cfg.data.drop_gold:
        return (
            f"{candidates} whose description is not among them (data.drop_gold=true); give a file"
            " with some, lower the one or set the other to false"
        )
    return f"{candidates}; give a file with more or lower it"


def read_rows(path: Path, *, ranking: bool) -> list[Row]:
    """Rows of a JSON-lines file in the release's format.

    Args:
        path: the file.
        ranking: rows of phase II, which have candidates; without one a row is left out, counted
            and told on the terminal.

    Raises:
        UserError: a missing file or column, or a value of another kind.
    """
    columns = ("source", "target", "candidate") if ranking else ("source", "target")
    valid, dropped = [], 0
    for number, row in enumerate(read_jsonl(path, columns), start=1):
        listed = row["candidate"] if ranking else []
        good = isinstance(listed, list) and all(isinstance(c, str) for c in listed)
        if not good or not all(isinstance(row[n], str) for n in ("source", "target")):
            raise UserError(
                f"{path}, line {number}: source and target are texts, candidate is a list of texts"
            )
        texts = distinct(listed)
        if not row["source"].strip() or not row["target"].strip() or (ranking and not texts):
            dropped += 1
            continue
        extras = _given(row, f"{path}, line {number}")
        valid.append(Row(row["source"].strip(), row["target"].strip(), tuple(texts), *extras))
    if dropped:
        sys.stderr.write(f"{path}: {dropped} rows without text or candidates are left out\n")
    return valid


def instance_names(row: Mapping[str, Any], where: str) -> list[str] | None:
    """``baseline_candidates`` of a record without repetitions; None where it has none.

    Args:
        row: record of either phase.
        where: file and line, for the error.

    Raises:
        UserError: not a list of texts.
    """
    names = row.get("baseline_candidates")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: baseline_candidates is a list of texts")
    return distinct(names)


def _given(row: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    """Phase I's own text and the first name of an instance."""
    text, names = row.get("phase1"), instance_names(row, where)
    if text is not None and not isinstance(text, str):
        raise UserError(f"{where}: phase1 is a text; leave it out where it is not known")
    return text, None if names is None else next(iter(names), "")


def part_path(cfg: Config, part: Part) -> Path:
    """File of a part of ``data.source`` files or released."""
    root = data_root(cfg.data.root)
    if cfg.data.source == "files":
        named = getattr(cfg.data, part)
        return root / Path(named).expanduser()
    name, split = _NAMES[part], cfg.data.split
    if cfg.phase == "describe":
        return root / cfg.data.folder / "phase1" / split / f"{name}_para_256.json"
    return root / cfg.data.folder / "phase2" / f"generated_{name}_para_256_{split}.json"


def requirements(cfg: Config) -> list[Requirement]:
    """Files that training and evaluation read."""
    if cfg.data.source == "synthetic":
        return []
    if cfg.data.source == "bundled":
        return [bundled_requirement(RANKING if cfg.phase == "rank" else DESCRIBING)]
    hint = "the official repository declare-lab/WikiDes, or TASK=collect and TASK=candidates"
    parts: Sequence[Part] = ("train", "dev", "test")
    paths = {part: part_path(cfg, part) for part in parts}
    return [Requirement(f"data: {n}", str(p), p.is_file(), hint) for n, p in paths.items()]


def _all_rows(cfg: Config, part: Part) -> list[Row]:
    ranking = cfg.phase == "rank"
    if cfg.data.source == "synthetic":
        return synthetic_rows(part, cfg.seed)
    if cfg.data.source == "bundled":
        if ranking:
            return read_rows(bundled(RANKING, cfg.data.root) / f"{part}.jsonl.gz", ranking=True)
        return _bundled_descriptions(cfg, part)
    path = require(
        part_path(cfg, part),
        what=f"the {part} part of WikiDes",
        layout='JSON lines of {"source", "target", "candidate"}',
        source="the repository declare-lab/WikiDes, or TASK=collect and TASK=candidates",
        size="20 MB",
    )
    return read_rows(path, ranking=ranking)


def _bundled_descriptions(cfg: Config, part: Part) -> list[Row]:
    """Phase I: the bundled set has no validation part, so every tenth training row is one."""
    name = "test" if part == "test" else "train"
    rows = read_rows(bundled(DESCRIBING, cfg.data.root) / f"{name}.jsonl.gz", ranking=False)
    if part == "test":
        return rows
    every = round(1 / _HELD)
    return [row for i, row in enumerate(rows) if (i % every == 0) == (part == "dev")]


def synthetic_rows(part: Part, seed: int) -> list[Row]:
    """Made-up paragraphs: a name, what it is and where, and candidates that are right in part."""
    offset = list(SYNTHETIC).index(part) * 10_000
    return [_made(sample_rng(seed, 0, offset + i, _MADE_STREAM)) for i in range(SYNTHETIC[part])]


def _made(rng: Any) -> Row:
    codes = rng.choice(len(SYLLABLES) ** 2, size=8, replace=False)
    name, kind, place, other, wrong, *rest = (SYLLABLES[c // 10] + SYLLABLES[c % 10] for c in codes)
    source = f"{name} is a {kind} in the {place} of {other}. It was {' '.join(rest)} in {wrong}."
    options = [f"{kind} in {place}", f"{kind} in {wrong}", kind, f"{wrong} of {name}", wrong]
    count = int(rng.integers(2, len(options) + 1))
    chosen = [options[i] for i in rng.permutation(len(options))[:count]]
    return Row(source, f"{kind} in {place}, {other}", tuple(chosen), chosen[0], kind)
