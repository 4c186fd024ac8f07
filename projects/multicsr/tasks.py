"""`make run TASK=generate`, `score` and `filter`: the stages on files of one's own."""

import json
from pathlib import Path

from common.config import UserError
from common.data.tables import read_csv
from common.engine.workspace import Workspace
from common.families.sentences.data import text_path
from common.files import write_text
from projects.multicsr import data, generation, judges
from projects.multicsr.config import Config
from projects.multicsr.graded_triplets import (
    SCORES,
    TRIPLET,
    GradedTriplet,
    curate,
    read_triplets,
    write_triplets,
)


def generate(cfg: Config, workspace: Workspace) -> Path:
    """Stage 1: write ``sent0,sent1,hard_neg`` for the premises of the config.

    The records of every output (tokens, omega, model) stay in ``<output>.parts``; the CSV is
    written when all shares (``task.shard=i/n``) are there.

    Raises:
        UserError: no premises or no such model; see `_output`.
    """
    path = _output(cfg, workspace, "triplets.csv", goes_on=True)
    premises = data.given_premises(cfg)
    texts, folder = data.distinct(premises), _parts(path)
    if len(texts) < len(premises):
        workspace.say(
            f"{len(premises)} premises; {len(texts)} are left, each once and without blank ones"
        )
    done = generation.write_records(cfg.stage1, texts, folder, cfg.seed, cfg.task, workspace.meter)
    if not done.complete:
        workspace.say(done.summary)
        return path
    records = list(done.rows())
    triplets = generation.written(texts, records)
    write_triplets(path, triplets, scores=False)
    note = data.report(done, triplets, path)
    workspace.say(f"{note}; {len(records) - len(triplets)} premises without an answer")
    differs = [row[kind]["differs"] for row in records for kind in generation.KINDS]
    if cfg.stage1.compare_plain:
        workspace.say(
            f"{sum(differs) / len(differs):.1%} of the outputs differ from greedy decoding"
        )
    return path


def score(cfg: Config, workspace: Workspace) -> Path:
    """Stage 2: write ``sent0,sent1,hard_neg,positive_score,negative_score``; rows stay as they are.

    Raises:
        UserError: no judge, no triplets, no such model, or a folder of other triplets; see
            `_output`.
    """
    if cfg.stage2.judge == "file":
        raise UserError("TASK=score asks a judge: set stage2.judge=lm and stage2.score_model")
    by_rule = cfg.stage2.judge in ("words", "overlap")
    path = _output(cfg, workspace, "scored.csv", goes_on=not by_rule)
    triplets = _triplets(cfg, workspace)
    if by_rule:
        scored = data.grade(cfg, triplets)
        note = f"{len(scored)} triplets in {path}"
    else:
        done, scored = judges.lm_scored(
            cfg.stage2, triplets, _parts(path), cfg.task, workspace.meter
        )
        if not done.complete:
            workspace.say(done.summary)
            return path
        note = data.report(done, scored, path)
    write_triplets(path, scored, scores=True)
    missing = sum(None in (t.positive_score, t.negative_score) for t in scored)
    workspace.say(f"{note}; {missing} without a score")
    return path


def filter_triplets(cfg: Config, workspace: Workspace) -> Path:
    """Stage 2: swap what is reversed, filter, write ``sent0,sent1,hard_neg`` and filter.json.

    Raises:
        UserError: a control in place of the rule, no scores, or nothing left; see `_output`.
    """
    if cfg.stage2.keep != "rule":
        raise UserError(
            f"TASK=filter applies the rule, and stage2.keep={cfg.stage2.keep} is a control of"
            " training: leave it out"
        )
    path = _output(cfg, workspace, "filtered.csv")
    triplets = _triplets(cfg, workspace)
    if all(t.positive_score is None for t in triplets):
        raise UserError(
            "these triplets have no scores: run TASK=score first and give its output in files.input"
        )
    curated = curate(triplets, judges.rule_of(cfg.stage2).keeps)
    if not curated.kept:
        raise UserError("the filter keeps nothing: lower stage2.alpha or raise stage2.beta")
    write_triplets(path, curated.kept, scores=False)
    metrics = curated.metrics()
    write_text(workspace.folder(".") / "filter.json", json.dumps(metrics, indent=2) + "\n")
    workspace.say(f"{len(curated.kept)} of {curated.total} triplets in {path}")
    for name, value in metrics.items():
        workspace.say(f"  {name} {value:.4f}")
    return path


def _triplets(cfg: Config, workspace: Workspace) -> list[GradedTriplet]:
    if cfg.files.input is None:
        return [row.triplet for row in data.triplet_rows(cfg)]
    triplets = read_triplets(cfg.files.input)
    names = read_csv(Path(cfg.files.input).expanduser(), TRIPLET, fill="", quoted=True)[0]
    others = [name for name in names if name not in (*TRIPLET, *SCORES)]
    if others:
        workspace.say(f"columns that are not written again: {', '.join(others)}")
    return triplets


def _parts(path: Path) -> Path:
    """Where what a language model wrote or graded is kept alongside a task's CSV."""
    return path.with_name(path.name + ".parts")


def _output(cfg: Config, workspace: Workspace, name: str, *, goes_on: bool = False) -> Path:
    """Where a task writes its CSV; nothing that it did not write itself is written over.

    Args:
        cfg: the experiment's config.
        workspace: of the task.
        name: of the file, where the config names none.
        goes_on: a file alongside its own `_parts` may be written again.

    Raises:
        UserError: it is read from as well, or it is there already.
    """
    output = cfg.files.output
    path = Path(output).expanduser() if output else workspace.folder(".") / name
    read = [Path(file).expanduser() for file in (cfg.files.input, cfg.stage2.scores) if file]
    read += [text_path(cfg.data)] if cfg.data.source == "file" else []
    if path.resolve() in [file.resolve() for file in read]:
        raise UserError(
            f"{path} would be written over what is read from it: give another files.output"
        )
    if output and path.exists() and not (goes_on and _parts(path).is_dir()):
        raise UserError(f"{path} is there already: delete it, or give another files.output")
    return path
