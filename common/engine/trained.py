"""Trained runs, checkpoints and exported folders: evaluated, exported, opened by tasks."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import __version__
from common.config import UserError, load, nearest, settings_of_own
from common.engine import checkpoint as ckpt
from common.engine.experiment import Experiment, M, Requirement
from common.engine.lifecycle.find import find_finished, finished_stages
from common.engine.lifecycle.run import Run, now
from common.engine.lifecycle.settings import as_trained, own_overrides
from common.engine.run import evaluate_module, prepare
from common.engine.workspace import Workspace, check_writable, new_run_id, run_folder
from common.export.files import write_json
from common.files import refuse_special, sync, sync_all
from common.models import ABOUT, check_unchanged, checksums
from common.models import about as exported_about
from common.registry import config_class

EVALUATION = "evaluation.json"  # of an evaluation's folder


def prepare_run(
    project: str, config: str, overrides: Sequence[str], which: str
) -> tuple[Experiment[Any], Run, list[str]]:
    """A trained run, and its experiment with the settings that it was trained with.

    What was edited in the run's config file since does not count, see `as_trained`.

    Args:
        project: slug.
        config: whose runs ``latest`` and run ids are looked for among.
        overrides: come on top of the run's own.
        which: run id, ``latest`` (the one that finished last) or folder.

    Returns:
        Experiment, run, and all overrides of the experiment's config.

    Raises:
        UserError: no such run, or one of another project.
    """
    schema = config_class(project)
    run = find_finished(load(schema, project, config, overrides), project, config, which)
    meta = run.meta
    if meta["project"] != project:
        raise UserError(f"{run.path} is a run of {meta['project']}, not of {project}")
    undone = as_trained(schema, run.settings(), meta, overrides)
    words = _later(project, meta["config"], [*own_overrides(meta), *undone], overrides)
    return prepare(project, meta["config"], words)[1], run, words


def _later(project: str, config: str, before: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Overrides of a model, then those that are typed, whose ``eval.own`` replaces earlier sets."""
    if any(word.startswith("eval.own=") for word in overrides):
        cfg = load(config_class(project), project, config, overrides)
        settings = settings_of_own(cfg, project)
        before = [word for word in before if word.split("=", 1)[0] not in settings]
    return [*before, *overrides]


def load_module(experiment: Experiment[M], path: Path) -> M:
    """The last stage's module with the weights of a checkpoint or an exported folder."""
    if not path.exists():
        raise UserError(f"no checkpoint or exported folder at {path}")
    refuse_special(path)
    if path.is_dir() and path.suffix != ".ckpt":  # a folder of shards is a checkpoint
        if (path / ABOUT).is_file():
            check_unchanged(path)
        exported = experiment.load_export(path)
        ckpt.check_finite(exported, path)
        return exported
    plan = experiment.plan()
    _check_tokenizers(plan.requirements, path)
    module = plan.module()
    ckpt.load_weights(module, path)
    return module


def _check_tokenizers(requirements: Sequence[Requirement], path: Path) -> None:
    """Refuse a checkpoint whose Hugging Face weights are not on this machine.

    The checkpoint has their tensors and not their tokenizer or preprocessor: a plan would build a
    stand-in, for sizes, which fits the checkpoint and reads every text differently.
    """
    for requirement in requirements:
        name = requirement.name.removeprefix("weights: ")
        library = name.partition(":")[0]
        is_hub = name != requirement.name and library not in ("open_clip", "timm", "torchvision")
        if is_hub and not requirement.present:
            raise UserError(
                f"{path} reads its inputs with the files of {name}, which are not on this machine: "
                f"{requirement.hint} ({requirement.location}), or open the exported folder, which"
                " has them"
            )


def module_of_run(experiment: Experiment[M], run: Path) -> M:
    """The trained module of a run: its last stage.

    Raises:
        UserError: not all of its stages are finished.
    """
    stages = finished_stages(run / "checkpoints")
    meta = Run(run, "", "").meta
    if not stages or not (meta.get("fitted") or meta.get("finished")):
        raise UserError(f"{run} is not trained to its end; continue it with resume={run.name}")
    final = ckpt.finished(stages[-1])
    assert final is not None
    return load_module(experiment, final)


def trained_module(
    experiment: Experiment[M], workspace: Workspace, which: str, runs_dir: str
) -> tuple[M, Path | None]:
    """The module that a task works with, and the folder of its run.

    Args:
        experiment: reads an exported folder.
        workspace: of the task; has project and config.
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
    name = str(place) if place.is_dir() else which
    overrides = [f"runs_dir={runs_dir}"]
    trained, run, _ = prepare_run(workspace.project, workspace.config, overrides, name)
    return module_of_run(trained, run.path), run.path


def evaluate(
    project: str, config: str | None, overrides: Sequence[str], run: str | None, path: str | None
) -> tuple[Path, dict[str, float]]:
    """The evaluation protocol on a run, a checkpoint file or an exported folder.

    Args:
        project: slug.
        config: config name; None: that of a folder written by `export`, else "mini".
        overrides: as for `train`.
        run: run id, ``latest`` or folder; default when `path` is None.
        path: a ``.ckpt`` file, a folder written by `export`, or the folder of a run.

    Returns:
        Folder with the written files, ``eval-<time>`` in the run's folder, whose own metrics do
        not change (in the folder of all runs for a file or an exported folder); and the metrics.
        `EVALUATION` in it says what was evaluated with which settings.
    """
    name = f"eval-{new_run_id()}"
    if path is not None and (Path(path) / "meta.json").is_file():
        run, path = path, None
    if path is not None and config is None and Path(path).is_dir():
        config, overrides = _settings_of_export(Path(path), project, "mini", overrides)
    config = config or "mini"
    if path is not None:
        cfg, experiment = prepare(project, config, overrides)
        check_writable(run_folder(cfg, project, config))
        module = load_module(experiment, Path(path))
        workspace = Workspace(run_folder(cfg, project, config) / name, project, config)
        about = {"model": path, "config": config, "overrides": list(overrides)}
    else:
        experiment, trained, words = prepare_run(project, config, overrides, run or "latest")
        check_writable(trained.path)
        module = module_of_run(experiment, trained.path)
        workspace = trained.workspace(name)
        about = {"model": str(trained.path), "config": trained.meta["config"], "overrides": words}
    with _whole_or_none(workspace.path):
        metrics = evaluate_module(experiment, module, workspace)
        write_json(workspace.path / EVALUATION, {**about, "finished": now()})
    return workspace.path, metrics


def run_task(project: str, config: str, overrides: Sequence[str], task: str) -> None:
    """Run one of the project's own tasks.

    Raises:
        UserError: the project has no such task.
    """
    cfg, experiment = prepare(project, config, overrides)
    if not task:
        names = "|".join(sorted(experiment.tasks)) or "... (this project has none)"
        raise UserError(f"give a task: make run PROJECT={project} TASK={names}")
    if task not in experiment.tasks:
        raise UserError(
            f"project '{project}' has no task '{task}'{nearest(task, experiment.tasks)}"
        )
    folder = run_folder(cfg, project, config) / f"task-{task}"
    check_writable(folder.parent)
    experiment.tasks[task](Workspace(folder, project, config))


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
        The folder: ``export`` in the run's, ``<name>-export`` next to a file or folder.

    Raises:
        UserError: no such run, file or folder, one of another project, or a place that cannot be
            written or holds something that is not an export.
    """
    if path is None:
        experiment, trained, words = prepare_run(project, config, overrides, run or "latest")
        source, out = trained.path, trained.path / "export"
        origin, config = {"run": source.name}, trained.meta["config"]
    else:
        source = Path(os.path.abspath(path))
        if not source.exists():
            raise UserError(f"no checkpoint or exported folder at {path}")
        out = source.with_name(f"{source.name if source.is_dir() else source.stem}-export")
        origin = {"source": str(source)}
        config, words = _settings_of_export(source, project, config, overrides)
        _, experiment = prepare(project, config, words)
    _check_place(out, source)
    module = (module_of_run if path is None else load_module)(experiment, source)
    about = {"project": project, "config": config, "version": __version__, **origin}
    kept = [w for w in own_overrides({"overrides": words}) if not w.startswith("tracking")]
    unique = list(dict.fromkeys(reversed(kept)))[::-1]  # the last of equal words counts
    module.eval()
    with _whole_or_none(out.with_name(out.name + ".tmp")) as temporary:
        experiment.export(module, temporary)
        _point_to(temporary, out)
        write_json(
            temporary / ABOUT,
            about | {"overrides": unique, "files": checksums(temporary)},
        )
        sync_all(temporary)
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    sync(out.parent)
    return out


@contextlib.contextmanager
def _whole_or_none(folder: Path) -> Iterator[Path]:
    """A new, empty folder that goes again after an error, such as a full disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _settings_of_export(
    source: Path, project: str, config: str, overrides: Sequence[str]
) -> tuple[str, list[str]]:
    """Config and overrides of what is exported again: its own where it is one of our exports."""
    if not (source / ABOUT).is_file():
        return config, [*overrides]
    about = exported_about(source)
    if about.project != project:
        raise UserError(f"{source} is an export of {about.project}, not of {project}")
    return about.config, _later(project, about.config, about.overrides, overrides)


def _check_place(out: Path, source: Path) -> None:
    """Refuse to export where nothing can be written, or over what is not an export of ours."""
    if out.exists() and not (out / ABOUT).is_file():
        raise UserError(
            f"{out} is in the way: without {ABOUT} it is not an exported model, which would be "
            "replaced; move it away"
        )
    try:
        check_writable(out.parent)
    except UserError as error:
        raise UserError(f"{error}, or copy {source} to a folder of your own") from error


def _point_to(temporary: Path, out: Path) -> None:
    """Change the path that open_clip finds an image tower by to that of the final folder."""
    before, after = (json.dumps(str(place.resolve()))[1:-1] for place in (temporary, out))
    for file in temporary.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        if before in text:
            file.write_text(text.replace(before, after), encoding="utf-8")
