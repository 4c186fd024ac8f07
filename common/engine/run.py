"""Train, evaluate, export and run tasks: what the CLI verbs do."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import __version__
from common.config import ExperimentConfig, UserError, load, nearest
from common.engine import checkpoint as ckpt
from common.engine.callbacks import seed_all, step_seed
from common.engine.experiment import Experiment, M, Requirement
from common.engine.lifecycle import launch
from common.engine.lifecycle.find import find_finished, find_unfinished
from common.engine.lifecycle.finished import finished_stages
from common.engine.lifecycle.fit import fit_stages
from common.engine.lifecycle.launch import is_main_process
from common.engine.lifecycle.run import Run
from common.engine.lifecycle.settings import (
    as_trained,
    check_same_processes,
    own_overrides,
    resumed_config,
)
from common.engine.lifecycle.signals import Signals
from common.engine.processor import SWITCH, choose_cpu_gemm
from common.engine.tracking import close_loggers, open_loggers
from common.engine.trainer import check_devices, scale
from common.engine.workspace import Workspace, check_writable, new_run_id, run_folder
from common.evaluation.tables import write_report
from common.export.files import write_json
from common.models import ABOUT
from common.models import about as exported_about
from common.registry import config_class, load_project

RUN_PATH = "CONTRASTIVE_RUN_PATH"  # the launching process tells its DDP children


def prepare(
    project: str, config: str, overrides: Sequence[str]
) -> tuple[ExperimentConfig, Experiment[Any]]:
    """Typed config and experiment of a project."""
    choose_cpu_gemm()
    cfg = load(config_class(project), project, config, overrides)
    return cfg, load_project(project).build(cfg)


def prepare_run(
    project: str, config: str, overrides: Sequence[str], which: str
) -> tuple[Experiment[Any], Run]:
    """A trained run, and its experiment with the settings that it was trained with.

    Args:
        project: slug.
        config: whose runs ``latest`` and run ids are looked for among.
        overrides: come on top of the run's own.
        which: run id, ``latest`` (the one that finished last) or folder.

    Raises:
        UserError: no such run, or one of another project.
    """
    run = find_finished(
        load(config_class(project), project, config, overrides), project, config, which
    )
    known = run.meta
    if known["project"] != project:
        raise UserError(f"{run.path} is a run of {known['project']}, not of {project}")
    return prepare(project, known["config"], [*own_overrides(known), *overrides])[1], run


def train(project: str, config: str, overrides: Sequence[str] = ()) -> Path:
    """Open the run, fit all stages, evaluate, close.

    Returns:
        The run folder.

    Raises:
        UserError: anything in config, data or checkpoint that the user can mend.
    """
    start = time.monotonic()
    choose_cpu_gemm()
    known, cfg, changes = _chosen_run(project, config, overrides)
    check_devices(cfg.trainer)
    check_writable(run_folder(cfg, project, config))
    experiment: Experiment[Any] = load_project(project).build(cfg)
    seed_all(step_seed(cfg.seed, 0, 0, 0))
    stages = experiment.stages()
    first = next(stages)  # builds data and module: what is missing is said before a folder exists
    size = scale(cfg, first)
    if known is not None:
        check_same_processes(known.path.name, known.meta, int(size["world_size"]))
    run = known or _new_run(project, config, cfg)
    with Signals() as signals, run:
        if known is None:
            run.create(cfg, overrides, size)
        else:
            run.go_on(cfg, overrides, changes, size)
        loggers = open_loggers(cfg, run.workspace(), run.owner)
        os.environ[RUN_PATH] = str(run.path)
        try:
            module, fit = fit_stages(run, signals, cfg, first, stages, loggers)
        finally:
            os.environ.pop(RUN_PATH, None)
        if run.owner:
            metrics = evaluate_module(experiment, module, run.workspace(sinks=loggers))
            close_loggers(loggers, metrics)
            run.finish(**fit, wall_seconds=round(time.monotonic() - start, 1))
    return run.path


def evaluate_module(experiment: Experiment[M], module: M, workspace: Workspace) -> dict[str, float]:
    """The paper's metrics of a trained module, written to metrics.json and metrics.md."""
    module.eval()
    with torch.inference_mode():
        metrics = experiment.evaluate(module, workspace)
    metrics = {k: float(v) for k, v in metrics.items()}
    title = f"{workspace.project}/{workspace.config} {workspace.run_id}"
    write_report(metrics, workspace.folder("."), title=title)
    return metrics


def evaluate(
    project: str, config: str, overrides: Sequence[str], run: str | None, path: str | None
) -> tuple[Path, dict[str, float]]:
    """The evaluation protocol on a run, a checkpoint file or an exported folder.

    Args:
        project: slug.
        config: config name.
        overrides: as for `train`.
        run: run id, ``latest`` or folder; default when `path` is None.
        path: a ``.ckpt`` file or a folder written by `export`.

    Returns:
        Folder with the written files, ``eval-<time>`` in the run's folder, whose own metrics stay
        as they are (beside the runs for a file or an exported folder); and the metrics.
    """
    name = f"eval-{new_run_id()}"
    if path is not None:
        cfg, experiment = prepare(project, config, overrides)
        check_writable(run_folder(cfg, project, config))
        module = load_module(experiment, Path(path))
        workspace = Workspace(run_folder(cfg, project, config) / name, project, config)
    else:
        experiment, found, _ = _reopened(project, config, overrides, run or "latest")
        check_writable(found.path)
        module = module_of_run(experiment, found.path)
        workspace = found.workspace(name)
    return workspace.path, evaluate_module(experiment, module, workspace)


def _reopened(
    project: str, config: str, overrides: Sequence[str], which: str
) -> tuple[Experiment[Any], Run, list[str]]:
    """`prepare_run`, whatever was edited in the run's config file since.

    And all overrides of it.
    """
    schema = config_class(project)
    run = find_finished(load(schema, project, config, overrides), project, config, which)
    known = run.meta
    words = [*overrides]
    if known["project"] == project:  # else it is refused below
        words = [*as_trained(schema, run.settings(), known, overrides), *overrides]
    experiment, run = prepare_run(project, config, words, which)
    return experiment, run, [*own_overrides(known), *words]


def load_module(experiment: Experiment[M], path: Path) -> M:
    """The last stage's module with the weights of a checkpoint or an exported folder."""
    if not path.exists():
        raise UserError(f"no checkpoint or exported folder at {path}")
    if path.is_dir():
        return experiment.load_export(path)
    plan = experiment.plan()
    _check_tokenizers(plan.requirements, path)
    module = plan.module()
    ckpt.load_weights(module, path)
    return module


def _check_tokenizers(needed: Sequence[Requirement], path: Path) -> None:
    """Refuse a checkpoint whose Hugging Face weights are not at hand.

    The checkpoint has their tensors and not their tokenizer or preprocessor: a plan would build one
    of its own in their place, for sizes, which fits the checkpoint and reads every text otherwise.
    """
    for one in needed:
        name = one.name.removeprefix("weights: ")
        named = name != one.name and name.partition(":")[0] not in (
            "open_clip",
            "timm",
            "torchvision",
        )
        if named and not one.present:
            raise UserError(
                f"{path} reads its inputs with the files of {name}, which are not on this machine: "
                f"{one.hint} ({one.location}), or open the exported folder, which has them"
            )


def module_of_run(experiment: Experiment[M], run: Path) -> M:
    """The trained module of a run: its last stage.

    Raises:
        UserError: not all of its stages are finished.
    """
    done = finished_stages(run / "checkpoints")
    known = Run(run, "", "").meta
    if not done or not (known.get("fitted") or known.get("finished")):
        raise UserError(f"{run} is not trained to its end; continue it with resume={run.name}")
    final = ckpt.finished(done[-1])
    assert final is not None
    return load_module(experiment, final)


def trained_module(
    experiment: Experiment[M], workspace: Workspace, which: str, runs_dir: str
) -> tuple[M, Path | None]:
    """The module that a task works with, and the folder of its run.

    Args:
        experiment: reads an exported folder.
        workspace: of the task; tells project and config.
        which: an exported folder; or ``latest``, a run id or the folder of a run, whose module has
            the settings that it was trained with.
        runs_dir: where runs are looked for.

    Returns:
        Module; run, None for an exported folder.

    Raises:
        UserError: nothing of that name, or nothing trained.
    """
    place = Path(which).expanduser()
    if place.is_dir() and not (place / "meta.json").exists():
        return load_module(experiment, place), None
    own = [f"runs_dir={runs_dir}"]
    named = str(place) if place.is_dir() else which
    trained, run = prepare_run(workspace.project, workspace.config, own, named)
    return module_of_run(trained, run.path), run.path


def export(
    project: str, config: str, overrides: Sequence[str], run: str | None, path: str | None
) -> Path:
    """Write the trained model in the format of its field.

    Args:
        project: slug.
        config: config name; an exported folder and a run have their own.
        overrides: come on top of those of the run or of the exported folder.
        run: run id, ``latest`` or folder; default when `path` is None.
        path: a ``.ckpt`` file or a folder in the format of an export.

    Returns:
        The folder: ``export`` in the run's, ``<name>-export`` beside a file or folder.

    Raises:
        UserError: no such run, file or folder, one of another project, or a place that cannot be
            written or holds something that is no export.
    """
    if path is None:
        experiment, found, words = _reopened(project, config, overrides, run or "latest")
        source, out = found.path, found.path / "export"
        told, config = {"run": source.name}, found.meta["config"]
    else:
        source = Path(os.path.abspath(path))
        if not source.exists():
            raise UserError(f"no checkpoint or exported folder at {path}")
        out = source.with_name(f"{source.name if source.is_dir() else source.stem}-export")
        told = {"source": str(source)}
        config, words = _exported_with(source, project, config, overrides)
        _, experiment = prepare(project, config, words)
    _check_place(out, source)
    module = (module_of_run if path is None else load_module)(experiment, source)
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    module.eval()
    experiment.export(module, temporary)
    named = {"project": project, "config": config, "version": __version__, **told}
    own = [w for w in own_overrides({"overrides": words}) if not w.startswith("tracking")]
    once = list(dict.fromkeys(reversed(own)))[::-1]  # the last one of equal words counts
    write_json(temporary / ABOUT, named | {"overrides": once})
    _rename(temporary, out)
    return out


def _exported_with(
    source: Path, project: str, config: str, overrides: Sequence[str]
) -> tuple[str, list[str]]:
    """Config and overrides of what is exported again: its own where it is one of our exports."""
    if not (source / ABOUT).is_file():
        return config, [*overrides]
    known = exported_about(source)
    if known.project != project:
        raise UserError(f"{source} is an export of {known.project}, not of {project}")
    return known.config, [*known.overrides, *overrides]


def _check_place(out: Path, source: Path) -> None:
    """Refuse to export where nothing can be written, or over what is no export of ours."""
    if out.exists() and not (out / ABOUT).is_file():
        raise UserError(
            f"{out} is in the way: without {ABOUT} it is no exported model, which would be "
            "replaced; move it away"
        )
    try:
        check_writable(out.parent)
    except UserError as error:
        raise UserError(f"{error}, or copy {source} to a folder of your own") from error


def _rename(temporary: Path, out: Path) -> None:
    """Let a complete folder replace an older one.

    The path that open_clip finds an image tower by goes along.
    """
    before, after = (json.dumps(str(place.resolve()))[1:-1] for place in (temporary, out))
    for file in temporary.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        if before in text:
            file.write_text(text.replace(before, after), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def run_task(project: str, config: str, overrides: Sequence[str], task: str) -> None:
    """Run one of the project's own tasks.

    Raises:
        UserError: the project has no such task.
    """
    cfg, experiment = prepare(project, config, overrides)
    if not task:
        names = "|".join(sorted(experiment.tasks)) or "... (this project has none)"
        raise UserError(f"name a task: make run PROJECT={project} TASK={names}")
    if task not in experiment.tasks:
        raise UserError(
            f"project '{project}' has no task '{task}'{nearest(task, experiment.tasks)}"
        )
    folder = run_folder(cfg, project, config) / f"task-{task}"
    check_writable(folder.parent)
    experiment.tasks[task](Workspace(folder, project, config))


def _chosen_run(
    project: str, config: str, overrides: Sequence[str]
) -> tuple[Run | None, ExperimentConfig, dict[str, list[Any]]]:
    """The run that goes on (None: a new one), the config, and what changes in it.

    A run goes on by ``resume=``, in a process that another one of the run has started, and in a
    scheduler's job that was started again.
    """
    schema = config_class(project)
    cfg = load(schema, project, config, overrides)
    owner = is_main_process()
    if (told := os.environ.get(RUN_PATH)) is not None:
        run = Run(Path(told), project, config)
    elif cfg.resume is not None:
        found = find_unfinished(cfg, project, config, cfg.resume)
        run = Run(found.path, project, config, owner)
    elif (job := launch.job_run_id(cfg)) is not None:
        run = Run(run_folder(cfg, project, config) / job, project, config, owner)
        if not (run.path / "meta.json").exists():
            return None, cfg, {}
    else:
        return None, cfg, {}
    known = run.meta
    if (known["project"], known["config"]) != (project, config):
        raise UserError(
            f"{run.path} is a run of {known['project']}/{known['config']}, not of"
            f" {project}/{config}"
        )
    if cfg.run_id not in (None, run.path.name):
        raise UserError(f"run_id={cfg.run_id} and resume={run.path.name} name two runs")
    if owner:
        _check_same_products(run)
    known["resolved"] = run.settings()
    return run, *resumed_config(schema, run.path, known, overrides)


def _check_same_products(run: Run) -> None:
    """A resumed run keeps the library of its CPU products, else it would not be the same run."""
    before, now = run.meta.get("cpu_gemm", "vendor"), choose_cpu_gemm()
    if before != now:
        raise UserError(
            f"{run.path.name} computed its CPU products with '{before}', this process would use "
            f"'{now}': set {SWITCH}={before} to continue it"
        )


def _new_run(project: str, config: str, cfg: ExperimentConfig) -> Run:
    folder = run_folder(cfg, project, config) / launch.agreed_run_id(cfg)
    return Run(folder, project, config, is_main_process())
