"""`make run`: teacher logits of your own pairs, ranking with the student, a table of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.encoders.modes import evaluated
from common.encoders.text.template import plain_ids, special_tokens
from common.engine.experiment import Experiment
from common.engine.lifecycle.find import finished_runs, run_metrics, run_settings
from common.engine.workspace import Workspace
from common.files import write_text
from projects.dse.config import Config
from projects.dse.module import DSE
from projects.dse.pair_classifier import task_pairs
from projects.dse.pair_scores import score_pairs
from projects.dse.stages import load_teacher, scoring
from projects.dse.table import Row, arm_name, degradation_table, mixed_settings

SCORES = 2**22  # of queries with candidates that are held at a time


def score(cfg: Config, workspace: Workspace) -> Path:
    """Write the teacher's logits of a part; its folder becomes ``distill.scores``.

    The work can be shared out with ``task.shard`` or ``task.engine=ray``.

    Raises:
        UserError: no trained teacher, or a folder of other pairs.
    """
    pairs, part = task_pairs(cfg.data, cfg.score.part, cfg.seed), cfg.score.part
    output = cfg.score.output
    folder = Path(output).expanduser() if output else workspace.folder("logits")
    teacher = load_teacher(cfg)
    if pairs.skipped:
        workspace.say(
            f"{pairs.skipped} rows of '{part}' lack a text or a label ('-' counts as none):"
            " left out"
        )
    reader = teacher.classifier
    special = reader.tokenizer.num_special_tokens_to_add(pair=True)
    first, second = (_pieces(reader.tokenizer, texts) for texts in (pairs.first, pairs.second))
    sizes = [a + b + special for a, b in zip(first, second, strict=True)]
    _say_cut(workspace, f"pairs of '{part}'", sizes, reader.max_length, "teacher.max_length")
    build, settings = scoring(cfg, teacher)
    settings["part"] = part
    done = score_pairs(
        build,
        pairs.pairs,
        folder,
        settings,
        chunk_size=cfg.teacher.chunk_size,
        options=cfg.task,
        display=workspace.meter,
    )
    workspace.say(f"{done.summary}; in {folder}")
    return folder


def rank(
    cfg: Config, workspace: Workspace, experiment: Experiment[DSE]
) -> list[list[tuple[str, float]]]:
    """Best candidates of every query by a trained student: candidates are encoded once.

    Scores are formed of so many queries at a time that memory does not grow with their number.

    Raises:
        UserError: no trained run, or files that are missing or empty.
    """
    from common.engine.trained import trained_module

    options = cfg.rank
    queries, candidates = (
        _lines(name, which)
        for name, which in ((options.queries, "queries"), (options.candidates, "candidates"))
    )
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    reader = module.scorer.encoder
    special = sum(len(ids) for ids in special_tokens(reader.tokenizer))
    for which, texts in (("queries", queries), ("candidates", candidates)):
        sizes = [size + special for size in _pieces(reader.tokenizer, texts)]
        _say_cut(workspace, which, sizes, reader.max_length, "data.max_length of the training")
    places, scores = list[list[int]](), list[list[float]]()
    with evaluated(module.scorer, cfg.trainer.accelerator):
        asked, among = module.scorer.encode(queries), module.scorer.encode(candidates)
        size = max(1, SCORES // len(candidates))
        starts = range(0, len(queries), size)
        for start in workspace.progress(starts, "rank", len(starts)):
            top, best = module.scorer.rank(
                asked[start : start + size], among, options.k, options.label, options.both_orders
            )
            places += best.tolist()
            scores += top.tolist()
    rankings = []
    for query, order, values in zip(queries, places, scores, strict=True):
        workspace.say(query)
        rows = [(candidates[i], value) for i, value in zip(order, values, strict=True)]
        for text, value in rows:
            workspace.say(f"  {value:8.3f}  {text}")
        rankings.append(rows)
    return rankings


def table(cfg: Config, workspace: Workspace) -> str:
    """One table: teacher, student, student without distillation, baselines.

    Tasks and their average.

    Raises:
        UserError: no finished run with metrics.
    """
    folders = finished_runs(cfg.table.runs, cfg.runs_dir, workspace.project)
    rows: list[Row] = []
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for folder in folders:
        settings, metrics = run_settings(folder), dict(run_metrics(folder))
        task, arm = settings["data"]["task"], arm_name(settings)
        rows.append(Row(task, arm, settings["eval"]["parts"], metrics))
        alike.setdefault((arm, task), []).append(settings)
    if not rows:
        raise UserError("no finished run of a teacher or student: train some, or set table.runs")
    text = degradation_table(rows)
    for (arm, task), runs in alike.items():
        if keys := mixed_settings(arm, runs):
            text += (
                f"\n{arm} on {task} is the mean of {len(runs)} runs that differ in"
                f" {', '.join(keys)}: name those that belong together with table.runs.\n"
            )
    write_text(workspace.folder(".") / "table.md", text)
    workspace.say(text)
    return text


def _pieces(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Pieces of each text without special ones."""
    distinct = list(dict.fromkeys(texts))
    sizes = dict(zip(distinct, map(len, plain_ids(tokenizer, distinct)), strict=True))
    return [sizes[text] for text in texts]


def _say_cut(
    workspace: Workspace, what: str, sizes: Sequence[int], limit: int | None, option: str
) -> None:
    """Say how many are longer than what is read of them."""
    long = 0 if limit is None else sum(size > limit for size in sizes)
    if long:
        workspace.say(
            f"{long} of {len(sizes)} {what} are longer than {limit} pieces ({option}): the rest is"
            " not read"
        )


def _lines(name: str | None, which: str) -> Sequence[str]:
    if name is None:
        raise UserError(f"rank.{which}: give a text file with one of them per line")
    try:
        text = Path(name).expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"rank.{which}: {error}") from error
    # at line feeds alone: a text may hold other separators
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"rank.{which}: {name} is empty")
    return lines
