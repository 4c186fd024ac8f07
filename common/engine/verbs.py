"""What each CLI verb shows: thin printing around the engine."""

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.config import UserError, config_names
from common.engine.terminal import console, print_table
from common.evaluation.tables import four_digits


def show_run(path: Path) -> None:
    """Print what a run has reached, and what to do next; only the main process prints."""
    from common.engine.lifecycle.find import OWNED
    from common.engine.lifecycle.launch import is_main_process
    from common.engine.lifecycle.settings import own_overrides
    from common.engine.workspace import read_json

    if not is_main_process():
        return
    meta = read_json(path / "meta.json")
    project, config, words = meta["project"], meta["config"], own_overrides(meta)
    place = f"runs_dir={path.parents[2]}"
    evaluated = not path.name.startswith(OWNED)  # a comparison has baselines of its own
    _show_results(path, project, config, [*words, place], with_baselines=evaluated)
    if skipped := meta.get("skipped_samples"):
        console.print(f"{skipped:.0f} corrupt samples were skipped")
    _show_next(project, path.parents[2], _export_command(project, config, f"RUN={path.name}"))


def _show_results(
    folder: Path, project: str, config: str, words: Sequence[str], with_baselines: bool = True
) -> None:
    """The headline table of a folder with metrics, next to references that are evaluated here."""
    from common.engine.comparison.references import (
        BASELINES_FILE,
        comparison_of,
        evaluate_baselines,
        headline,
        own_rows,
    )
    from common.engine.run import judge_of
    from common.engine.workspace import read_json, write_json

    metrics = read_json(folder / "metrics.json")
    baselines: dict[str, dict[str, float | None]] = {}
    problems: list[str] = []
    try:
        spec = comparison_of(project, config)
    except UserError as error:
        spec, problems = None, [str(error)]
    judge = judge_of(project, config, words)
    if judge is not None and not judge.baselines:  # they would read the config's own sets
        with_baselines = False
    if with_baselines and spec is not None:
        if judge is None and spec.metric in metrics:  # the other columns can take minutes
            console.print(f"{spec.metric} {four_digits(metrics[spec.metric])}")
        baselines, problems = evaluate_baselines(spec, config, words, metrics)
        write_json(folder / BASELINES_FILE, baselines)
    if judge is None:
        rows = headline(metrics, baselines, spec)
    else:
        rows = own_rows(metrics, baselines, spec)
    table = [
        [
            row.metric,
            four_digits(row.value),
            "" if row.untrained is None else four_digits(row.untrained),
            "" if row.baseline is None else f"{four_digits(row.baseline[1])} {row.baseline[0]}",
            "" if row.chance is None else four_digits(row.chance),
        ]
        for row in rows
    ]
    heads = ["metric", "value", "untrained", "best training-free", "chance"]
    print_table(f"{project}/{config} {folder.name}", heads, table, right=(1, 2, 4))
    for problem in problems:
        console.print(problem)
    console.print(f"all metrics: {folder / 'metrics.md'}")


def _show_next(project: str, runs_dir: Path, model: Sequence[str]) -> None:
    """Two commands: the report, and the export of a model or how an exported one is opened."""
    place = [] if runs_dir == Path("runs") else [f"runs_dir={runs_dir}"]
    console.print(shlex.join(["make", "report", f"PROJECT={project}", *place]))
    if model[0] == "make":
        model = [*model, *place]
    console.print(shlex.join(model))


def _export_command(project: str, config: str, model: str) -> list[str]:
    named = [] if config == "mini" else [f"CONFIG={config}"]
    return ["make", "export", f"PROJECT={project}", *named, model]


def evaluate_baseline(project: str, config: str, overrides: Sequence[str], name: str) -> None:
    """Run a baseline that needs no training and print its metrics."""
    from common.engine.comparison.baselines import evaluate_baseline as run_baseline

    out, _ = run_baseline(project, config, overrides, name)
    _show_results(out, project, config, overrides, with_baselines=False)


def evaluate(
    project: str, config: str | None, overrides: Sequence[str], which: str | None, path: str | None
) -> None:
    """Evaluate a trained model; print its metrics and what to do next."""
    from common.engine.trained import EVALUATION
    from common.engine.trained import evaluate as evaluate_run
    from common.engine.workspace import read_json

    out, _ = evaluate_run(project, config, overrides, which, path)
    about = read_json(out / EVALUATION)
    _show_results(out, project, about["config"], about["overrides"])
    model = Path(about["model"])
    if (model / "meta.json").is_file():
        command = _export_command(project, about["config"], f"RUN={model.name}")
        _show_next(project, model.parents[2], command)
    elif model.is_file() or model.suffix == ".ckpt":
        _show_next(
            project, out.parents[2], _export_command(project, about["config"], f"CKPT={path}")
        )
    else:
        line = f"from common.models import load; model = load({str(path)!r})"
        _show_next(project, out.parents[2], ["python", "-c", line])


def check(project: str, config: str, overrides: Sequence[str]) -> None:
    """Print what a run would take."""
    from common.engine.check import inspect

    table = Table(title=f"{project}/{config}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in inspect(project, config, overrides).items():
        table.add_row(name, value)
    console.print(table)


def check_all() -> None:
    """Build every paper config on the meta device and write reports/cost.md."""
    from common.engine.cost import all_costs, paper_configs, problems, write_costs
    from common.engine.progress import track
    from common.registry import list_projects

    total = sum(len(paper_configs(project)) for project in list_projects())
    costs = list(track(all_costs(), "paper configs", total))
    console.print(f"{len(costs)} configs measured; written: {write_costs(costs)}")
    lines = problems(costs)
    for line in lines:
        console.print(line, highlight=False)
    if lines:
        raise UserError(f"{len(lines)} of {len(costs)} paper configs do not fit or are not known")


def compare(
    project: str,
    overrides: Sequence[str],
    seeds: str | None,
    jobs: int,
    arms: Sequence[str],
    only: str,
) -> None:
    """Train the arms, print the comparison."""
    from common.engine.comparison.cards import markdown
    from common.engine.comparison.compare import compare as run_arms

    comparisons, reason = run_arms(project, overrides, seeds, jobs, arms, only=only)
    console.print(markdown(comparisons))
    if reason:
        console.print(f"Not published: {reason}.", highlight=False)


def plan(
    project: str,
    overrides: Sequence[str],
    seeds: str | None,
    jobs: int,
    arms: Sequence[str],
    only: str,
) -> None:
    """Print runs, minutes and resolution of a comparison; nothing is run."""
    from common.engine.comparison.compare import planned_runs
    from common.engine.comparison.planning import make_plan

    for spec, chosen, runs in planned_runs(project, overrides, seeds, arms, only):
        for line in make_plan(project, spec, chosen, runs, jobs).lines():
            console.print(line)


def evidence() -> None:
    """Print every claim with its verdict; write docs/evidence.md and README's table."""
    from common.engine.comparison.evidence import counts, evidence_rows, write_evidence

    rows = evidence_rows()
    table = Table(title="evidence", title_justify="left")
    for column in (
        "project",
        "claim",
        "verdict",
        "difference, 95 % interval",
        "paper",
        "measured at",
    ):
        table.add_column(column)
    for row in rows:
        verdict = row.verdict + (f" (worse than {row.below})" if row.below else "")
        table.add_row(row.project, row.claim, verdict, row.difference, row.paper, row.version)
    # six columns in eighty characters are a column of syllables
    wide = Console(highlight=False, markup=False, width=max(console.width, 160))
    wide.print(table, counts(rows))
    console.print(f"written: {', '.join(write_evidence(rows))}")


def runs(project: str | None, where: str, folder: Path) -> None:
    """List the runs under a folder."""
    from common.engine.lifecycle.index import entries, select

    rows = []
    for e in (matches := select(entries(folder, project), where)):
        numbers = ["" if x is None else f"{x:.0f}" for x in (e.seed, e.steps, e.seconds)]
        value = "" if e.value is None else f"{e.metric} {four_digits(e.value)}"
        name = f"{e.run} ({e.arm})" if e.arm else e.run
        rows.append([name, e.project, e.config, e.state, *numbers, e.started[:19], value])
    heads = ["run", "project", "config", "state", "seed", "steps", "s", "started", "metric"]
    print_table(f"{len(matches)} runs", heads, rows, right=(4, 5, 6))


def diff(left: str, right: str, folder: Path) -> None:
    """Settings and metrics in which two runs differ."""
    from common.engine.lifecycle.index import differences, find

    paths = find(folder, left), find(folder, right)
    for letter, path in zip("AB", paths, strict=True):
        console.print(f"{letter}: {path}")
    rows = [[name, *_two_values(a, b)] for name, a, b in differences(*paths)]
    print_table(f"{len(rows)} differences", ["", "A", "B"], rows)


def _two_values(*values: Any) -> list[str]:
    """Two different values in four digits, or in all of them where they would look the same."""
    short = [f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in values]
    return short if short[0] != short[1] else [str(value) for value in values]


def prune(project: str | None, where: str, agreed: bool, folder: Path) -> None:
    """List failed and superseded runs, and remove them if that is agreed to.

    A condition chooses among them: what supersedes a run is looked for among all.
    """
    from common.engine.lifecycle.index import entries, removable, remove, select

    useless = removable(entries(folder, project))
    chosen = {entry.path for entry in select([entry for entry, _ in useless], where)}
    matches = [(entry, reason) for entry, reason in useless if entry.path in chosen]
    for entry, reason in matches:
        console.print(f"{entry.path}: {reason}")
    if agreed:
        remove([entry for entry, _ in matches])
    done = "removed" if agreed else "would go; to remove them: YES=1"
    console.print(f"{len(matches)} runs {done}")


def dashboard(
    project: str, config: str, overrides: Sequence[str], entity: str, dry_run: bool
) -> None:
    """Save the project's W&B workspace and print its address; or print its definition.

    Raises:
        UserError: no entity, no library, or W&B refuses.
    """
    import json

    from common.engine.dashboard import dashboard as define
    from common.engine.dashboard import save_dashboard

    definition = define(project, config, overrides)
    definition["entity"] = entity or definition["entity"]
    if dry_run:
        console.print(json.dumps(definition, indent=1))
        return
    if not definition["entity"]:
        raise UserError(
            "give the W&B user or team: make dashboard PROJECT=... ENTITY=<name>, or set"
            " tracking.entity"
        )
    console.print(f"saved: {save_dashboard(definition)}")


def smoke(projects: Sequence[str]) -> None:
    """Train, evaluate, export and reload the smoke config of each project.

    Raises:
        UserError: a project's exported model does not give the embeddings of the trained one.
    """
    for project in projects:
        if "smoke" not in config_names(project):
            raise UserError(f"project '{project}' has no smoke config")
        with tempfile.TemporaryDirectory() as folder:
            worst = smoke_one(project, Path(folder))
        console.print(f"smoke {project}: ok, export differs by {worst:.1e}")


def smoke_one(
    project: str, folder: Path, config: str = "smoke", further: Sequence[str] = ()
) -> float:
    """One project's smoke; returns the largest difference between trained and reloaded model."""
    import torch

    from common.engine import trained
    from common.engine.run import prepare
    from common.engine.run import train as train_run

    overrides = [f"runs_dir={folder}", "tracking.wandb=disabled", *further]
    path = train_run(project, config, overrides)
    _, experiment = prepare(project, config, overrides)
    exported = trained.export(project, config, overrides, str(path), None)
    with torch.inference_mode():
        embedded = experiment.embed(trained.module_of_run(experiment, path).eval())
        reloaded = experiment.embed(experiment.load_export(exported).eval())
    worst = max(float((embedded[k] - reloaded[k]).abs().max()) for k in embedded)
    if not worst <= 1e-5:
        raise UserError(f"{project}: reloaded embeddings differ from the trained ones by {worst}")
    trained.evaluate(project, config, overrides, None, str(exported))
    return worst
