"""`make run TASK=...`: rank, describe, and what people and a sentiment classifier say of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.data.lines import read_lines
from common.data.tables import read_jsonl, write_jsonl
from common.decoding.sequence_to_sequence import SequenceToSequence
from common.encoders.modes import evaluated
from common.engine import workspace as ws
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.tables import markdown_table
from common.export.files import output_file
from projects.wikides.beam_sweep import distinct
from projects.wikides.choice import choice_shares, write_choice_form
from projects.wikides.config import Config
from projects.wikides.data import Row, load_rows
from projects.wikides.inference import Ranked, rank_all
from projects.wikides.inference import describe as describe_one
from projects.wikides.module import Ranker
from projects.wikides.sentiment import classifier, polarity_table

SHOWN = 5
KINDS = ("source", "gold", "phase1", "phase2")


def rank(cfg: Config, workspace: Workspace, experiment: Experiment[Ranker]) -> Path:
    """Put candidates into the order of a trained ranker (``TASK=rank``).

    Returns:
        JSON lines of ``source``, ``candidate``, best first, and ``scores``.

    Raises:
        UserError: no trained run, or damaged rows.
    """
    task = cfg.rank
    output = output_file(task.output, workspace.folder("."), "ranked.jsonl", [task.input])
    rows = load_rows(cfg, cfg.eval.part)[:20] if task.input is None else _given(task.input)
    ranked = _ranked(cfg, workspace, experiment, rows, task.run)
    return _write(workspace, output, [row.source for row in rows], ranked)


def describe(cfg: Config, workspace: Workspace, experiment: Experiment[Ranker]) -> Path:
    """Describe paragraphs: candidates by a generator, the best one by a ranker (``TASK=describe``).

    Returns:
        JSON lines as of `rank`.

    Raises:
        UserError: no paragraphs, generator or trained run.
    """
    task = cfg.describe
    if task.input is None or task.generator is None:
        raise UserError(
            "set describe.input (one paragraph per line) and describe.generator (a folder made by "
            "`make export` with phase=describe, or a hub id)"
        )
    output = output_file(task.output, workspace.folder("."), "described.jsonl", [task.input])
    with reading(task.input, "text file in UTF-8"):
        lines = read_lines(Path(task.input).expanduser())
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{task.input} has no paragraph")
    if len(texts) < len(lines):
        workspace.say(f"{len(lines) - len(texts)} blank lines of {task.input} are left out")
    module = _ranker(cfg, workspace, experiment, task.run)
    method = module.objective.method
    generator = SequenceToSequence.from_pretrained(task.generator)
    generator.context = min(generator.context, task.max_source)
    with evaluated(module.encoder, cfg.trainer.accelerator):
        described = [
            describe_one(generator, module.encoder, text, task.widths, task.max_new_tokens, method)
            for text in workspace.progress(texts, "describe", len(texts))
        ]
    return _write(workspace, output, texts, described)


def form(cfg: Config, workspace: Workspace, experiment: Experiment[Ranker]) -> Path:
    """Write a blind form for raters (``TASK=form``): gold, phase I and phase II of each paragraph.

    Without ``form.input`` the test rows bring phase I's text, and phase II is a trained ranker's
    choice.

    Returns:
        The folder of ``form.csv``, for the raters, and ``key.jsonl``, not for them.

    Raises:
        UserError: no text of phase I, no trained run, rows that are damaged or lack a text, or a
            form that is there.
    """
    test = [] if cfg.form.input is not None else load_rows(cfg, cfg.eval.part)
    if any(row.phase1 is None for row in test):
        raise UserError(
            "the test rows don't tell what phase I wrote, only a pool of candidates in no order:"
            " set form.input, with source, gold, phase1 and phase2 a line, or give files of"
            " TASK=candidates, whose rows have phase1, with data.source=files"
        )
    folder = workspace.folder(".")
    if there := [path for name in ("form.csv", "key.jsonl") if (path := folder / name).exists()]:
        raise UserError(
            f"{there[0]} is there already: raters' answers fit the key of their own form alone, so"
            " keep both files elsewhere, or delete them"
        )
    rows = _texts(cfg, workspace, experiment, cfg.form.input, KINDS)[: cfg.form.items]
    systems = {kind: [row[kind] for row in rows] for kind in KINDS[1:]}
    sources = [row["source"] for row in rows]
    count = write_choice_form(folder / "form.csv", folder / "key.jsonl", sources, systems, cfg.seed)
    workspace.say(f"{folder}: form.csv with {count} rows, and its key")
    return folder


def choices(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Percent of the raters' choices by system, ties apart (``TASK=choices``).

    Raises:
        UserError: no forms or key, or a choice that is none.
    """
    task = cfg.choices
    if task.key is None or not task.forms:
        raise UserError(
            "set choices.forms, the filled-in forms, and choices.key, written with them"
        )
    shares = choice_shares([Path(f).expanduser() for f in task.forms], Path(task.key).expanduser())
    return _told(workspace, "choices.json", shares)


def sentiment(
    cfg: Config, workspace: Workspace, experiment: Experiment[Ranker]
) -> dict[str, float]:
    """Polarity of paragraphs and descriptions, and how often they agree (``TASK=sentiment``).

    Without ``sentiment.input`` those of the test rows; phase I is left out where they don't tell
    it.

    Raises:
        UserError: no classifier, or rows that are damaged, or of which some alone have a text.
    """
    classify = classifier(cfg.sentiment)
    rows = _texts(cfg, workspace, experiment, cfg.sentiment.input)
    kinds = [kind for kind in KINDS if kind in rows[0]]
    table = polarity_table({kind: classify([row[kind] for row in rows]) for kind in kinds})
    return _told(workspace, "sentiment.json", table)


def _ranker(cfg: Config, workspace: Workspace, experiment: Experiment[Ranker], run: str) -> Ranker:
    if cfg.phase != "rank":
        raise UserError("this task needs a config of phase II: phase=rank")
    module, _ = trained_module(experiment, workspace, run, cfg.runs_dir)
    trained, asked = (
        (m.use_sim, m.use_rouge, m.sim_range) for m in (module.objective.method, cfg.method)
    )
    if trained != asked:
        names = ("use_sim", "use_rouge", "sim_range")
        settings = " ".join(f"method.{n}={v}" for n, v in zip(names, trained, strict=True))
        workspace.say(f"scores are those that the run was trained with: {settings}")
    return module


def _ranked(
    cfg: Config, workspace: Workspace, experiment: Experiment[Ranker], rows: list[Row], run: str
) -> list[Ranked]:
    module = _ranker(cfg, workspace, experiment, run)
    with evaluated(module.encoder, cfg.trainer.accelerator):
        return rank_all(
            module.encoder,
            [row.source for row in rows],
            [row.candidates for row in rows],
            module.objective.method,
            cfg.eval.batch_size,
        )


def _texts(
    cfg: Config,
    workspace: Workspace,
    experiment: Experiment[Ranker],
    path: str | None,
    needed: Sequence[str] = KINDS[:2],
) -> list[dict[str, str]]:
    """Paragraphs with their gold, phase I and phase II texts, from a file or of the test rows."""
    rows: list[dict[str, Any]] = []
    if path is not None:
        rows, where = read_jsonl(Path(path).expanduser(), needed), path
    else:
        rows_of_part, where = load_rows(cfg, cfg.eval.part), f"{cfg.eval.part} rows"
        best = _ranked(cfg, workspace, experiment, rows_of_part, cfg.rank.run)
        for row, ranking in zip(rows_of_part, best, strict=True):
            phase1 = {} if row.phase1 is None else {"phase1": row.phase1}
            texts = {"source": row.source, "gold": row.target, **phase1, "phase2": ranking[0][0]}
            rows.append(texts)
    if not rows:
        raise UserError(f"{where} has no row")
    kinds = [kind for kind in KINDS if any(kind in texts for texts in rows)]
    for number, texts in enumerate(rows, start=1):
        for kind in kinds:
            if not isinstance(texts.get(kind), str):
                raise UserError(
                    f"{where}, line {number}: {kind} is a text, and in all rows or in none"
                )
    return [{kind: texts[kind] for kind in kinds} for texts in rows]


def _given(path: str) -> list[Row]:
    parsed = []
    for number, row in enumerate(
        read_jsonl(Path(path).expanduser(), ("source", "candidate")), start=1
    ):
        listed = row["candidate"]
        good = isinstance(listed, list) and all(isinstance(c, str) for c in listed)
        texts = distinct(listed) if good else []
        if not texts or not isinstance(row["source"], str):
            raise UserError(f"{path}, line {number}: source is a text, candidate a list of texts")
        parsed.append(Row(row["source"], "", tuple(texts)))
    if not parsed:
        raise UserError(f"{path} has no row")
    return parsed


def _write(workspace: Workspace, output: Path, sources: list[str], rankings: list[Ranked]) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "source": source,
            "candidate": [text for text, _ in ranking],
            "scores": [round(score, 5) for _, score in ranking],
        }
        for source, ranking in zip(sources, rankings, strict=True)
    ]
    write_jsonl(output, rows)
    for row in rows[:SHOWN]:
        best = row["candidate"][0] if row["candidate"] else "no description"
        workspace.say(f"{row['source'][:60]}: {best}")
    workspace.say(f"{output}: {len(rows)} paragraphs")
    return output


def _told(workspace: Workspace, name: str, metrics: dict[str, float]) -> dict[str, float]:
    ws.write_json(workspace.folder(".") / name, metrics)
    workspace.say(markdown_table(metrics))
    return metrics
