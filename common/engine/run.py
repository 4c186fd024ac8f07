"""Train, evaluate, export and run tasks: what the CLI verbs do."""

import datetime
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy

from common.config import ExperimentConfig, UserError, load, nearest, to_dict
from common.engine import checkpoint as ckpt
from common.engine import workspace as ws
from common.engine.callbacks import LogTerms, seed_all, step_seed
from common.engine.experiment import Experiment, M, Stage
from common.engine.module import ContrastiveModule
from common.engine.processor import SWITCH, choose_cpu_gemm
from common.engine.sharding import Unsharded
from common.engine.tracking import drop_rows_after, wandb_logger
from common.engine.trainer import (
    build_trainer,
    check_accumulation,
    run_precision,
    stage_config,
    total_steps,
    world_size,
)
from common.evaluation.tables import write_report
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
) -> tuple[Experiment[Any], Path]:
    """A finished run's experiment, with the settings that it was trained with, and its folder.

    Args:
        project: slug.
        config: whose runs ``latest`` and run ids are looked for among.
        overrides: come on top of the run's own.
        which: run id, ``latest`` or folder.

    Raises:
        UserError: no such run, or one of another project.
    """
    run = ws.find_run(
        load(config_class(project), project, config, overrides), project, config, which
    )
    known = ws.read_json(run / "meta.json")
    if known["project"] != project:
        raise UserError(f"{run} is a run of {known['project']}, not of {project}")
    own = [w for w in known["overrides"] if w.split("=")[0] not in ("resume", "run_id", "runs_dir")]
    return prepare(project, known["config"], [*own, *overrides])[1], run


def train(project: str, config: str, overrides: Sequence[str] = ()) -> Path:
    """Fit all stages, evaluate, write metrics.json.

    Returns:
        The run folder.

    Raises:
        UserError: anything in config, data or checkpoint that the user can mend.
    """
    begun = time.monotonic()
    cfg, experiment = prepare(project, config, overrides)
    seed_all(step_seed(cfg.seed, 0, 0, 0))
    resumed = _find_resumed(cfg, project, config)
    stages = experiment.stages()
    first = next(stages)  # builds data and module: what is missing is said before a folder exists
    workspace = _open_workspace(cfg, project, config, overrides, resumed, first)
    loggers = [logger] if (logger := wandb_logger(cfg, workspace)) else []
    try:
        module, fit = _fit_all(cfg, workspace, first, stages, loggers)
    finally:
        os.environ.pop(RUN_PATH, None)
    if not is_main_process():
        return workspace.path
    workspace.figure_sinks = loggers
    metrics = evaluate_module(experiment, module, workspace)
    for logger in loggers:
        logger.log_metrics({f"test/{k}": v for k, v in metrics.items()})
        logger.finalize("success")
    if loggers:
        import wandb

        wandb.finish()
    seconds = round(time.monotonic() - begun, 1)
    ws.update_meta(workspace.path, **fit, wall_seconds=seconds, finished=_now())
    return workspace.path


def evaluate_module(
    experiment: Experiment[M], module: M, workspace: ws.Workspace
) -> dict[str, float]:
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
        Folder with the written files, and the metrics.
    """
    if path is not None:
        cfg, experiment = prepare(project, config, overrides)
        module = load_module(experiment, Path(path))
        out = ws.run_folder(cfg, project, config) / f"eval-{ws.new_run_id()}"
    else:
        experiment, out = prepare_run(project, config, overrides, run or "latest")
        module = module_of_run(experiment, out)
    workspace = ws.Workspace(out, project, config)
    return out, evaluate_module(experiment, module, workspace)


def load_module(experiment: Experiment[M], path: Path) -> M:
    """The last stage's module with the weights of a checkpoint or an exported folder."""
    if not path.exists():
        raise UserError(f"no checkpoint or exported folder at {path}")
    if path.is_dir():
        return experiment.load_export(path)
    module = experiment.plan().module()
    ckpt.load_weights(module, path)
    return module


def module_of_run(experiment: Experiment[M], run: Path) -> M:
    """The trained module of a run: its last finished stage."""
    done = sorted((run / "checkpoints").glob("*/finished.json"), key=lambda p: p.stat().st_mtime)
    if not done:
        raise UserError(f"{run} has no finished stage; continue it with resume={run.name}")
    final = ckpt.finished(done[-1].parent)
    assert final is not None
    return load_module(experiment, final)


def trained_module(
    experiment: Experiment[M], workspace: ws.Workspace, which: str, runs_dir: str
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
    place = Path(which)
    if place.is_dir() and not (place / "meta.json").exists():
        return load_module(experiment, place), None
    own = [f"runs_dir={runs_dir}"]
    trained, run = prepare_run(workspace.project, workspace.config, own, which)
    return module_of_run(trained, run), run


def export(
    project: str, config: str, overrides: Sequence[str], run: str | None, path: str | None
) -> Path:
    """Write the trained model in the format of its field; returns the folder."""
    if path is not None:
        _, experiment = prepare(project, config, overrides)
        source, module = Path(path), load_module(experiment, Path(path))
        out = source.parent / "export"
    else:
        experiment, folder = prepare_run(project, config, overrides, run or "latest")
        module, out = module_of_run(experiment, folder), folder / "export"
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    module.eval()
    experiment.export(module, temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    return out


def run_task(project: str, config: str, overrides: Sequence[str], task: str) -> None:
    """Run one of the project's own tasks.

    Raises:
        UserError: the project has no such task.
    """
    cfg, experiment = prepare(project, config, overrides)
    if task not in experiment.tasks:
        raise UserError(
            f"project '{project}' has no task '{task}'{nearest(task, experiment.tasks)}"
        )
    folder = ws.run_folder(cfg, project, config) / f"task-{task}"
    experiment.tasks[task](ws.Workspace(folder, project, config))


def _find_resumed(cfg: ExperimentConfig, project: str, config: str) -> Path | None:
    if os.environ.get(RUN_PATH):
        return Path(os.environ[RUN_PATH])
    if cfg.resume is None:
        return None
    run = ws.find_run(cfg, project, config, cfg.resume)
    known = ws.read_json(run / "meta.json")
    if (known["project"], known["config"]) != (project, config):
        raise UserError(
            f"{run} is a run of {known['project']}/{known['config']}, not of {project}/{config}"
        )
    return run


def _open_workspace(
    cfg: ExperimentConfig,
    project: str,
    config: str,
    overrides: Sequence[str],
    resumed: Path | None,
    first: Stage,
) -> ws.Workspace:
    if resumed is not None:
        _check_same_products(resumed)
        workspace = ws.Workspace(resumed, project, config)
    elif (shared := _externally_launched()) is not None:
        workspace = _agree_on_workspace(cfg, project, config, overrides, first, shared)
    else:
        workspace = ws.create(cfg, project, config, overrides, _scale(cfg, first))
    os.environ[RUN_PATH] = str(workspace.path)
    return workspace


def _check_same_products(run: Path) -> None:
    """A resumed run keeps the library of its CPU products, else it would not be the same run."""
    before, now = ws.read_json(run / "meta.json").get("cpu_gemm", "vendor"), choose_cpu_gemm()
    if before != now:
        raise UserError(
            f"{run.name} computed its CPU products with '{before}', this process would use '{now}': "
            f"set {SWITCH}={before} to continue it"
        )


def _scale(cfg: ExperimentConfig, stage: Stage) -> dict[str, Any]:
    """World size, batch size, parameters and negatives, for meta.json."""
    trainer_cfg = stage_config(cfg.trainer, stage)
    check_accumulation(trainer_cfg, stage)
    ranks = world_size(trainer_cfg)
    steps, _ = total_steps(trainer_cfg, stage)
    step_batch = stage.data.batch_size * ranks
    return {
        "world_size": ranks,
        "global_batch_size": step_batch * trainer_cfg.accumulate_grad_batches,
        "num_steps": steps,
        "precision": run_precision(trainer_cfg),
        "cpu_gemm": choose_cpu_gemm(),
        "parameters": sum(p.numel() for p in stage.module.parameters()),
        "negatives_per_query": stage.module.negatives_per_query(step_batch),
        "resolved": to_dict(cfg),
    }


def _externally_launched() -> int | None:
    """Rank, when torchrun or SLURM has started the processes; None otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return None


def _agree_on_workspace(
    cfg: ExperimentConfig,
    project: str,
    config: str,
    overrides: Sequence[str],
    first: Stage,
    rank: int,
) -> ws.Workspace:
    """Rank 0 makes the folder; the others take the id from the job or from rank 0."""
    job = os.environ.get("SLURM_JOB_ID")
    if cfg.run_id is None and job is not None:
        cfg.run_id = f"slurm-{job}"
    if cfg.run_id is None:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        box = [ws.new_run_id()]
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.broadcast_object_list(box, src=0)
        cfg.run_id = box[0]
    path = ws.run_folder(cfg, project, config) / cfg.run_id
    restarted = (path / "meta.json").exists() and job is not None
    if rank == 0 and not restarted:
        return ws.create(cfg, project, config, overrides, _scale(cfg, first))
    return ws.Workspace(path, project, config)


def _fit_all(
    cfg: ExperimentConfig,
    workspace: ws.Workspace,
    first: Stage,
    rest: Iterator[Stage],
    loggers: list[Any],
) -> tuple[ContrastiveModule, dict[str, float]]:
    summary: dict[str, float] = {}
    stage: Stage | None = first
    index = 0
    names: set[str] = set()
    while stage is not None:
        if stage.name in names:
            raise ValueError(f"two stages are called '{stage.name}'")
        names.add(stage.name)
        folder = workspace.path / "checkpoints" / stage.name
        final = ckpt.finished(folder) or stage.weights
        if final is not None:
            ckpt.load_weights(stage.module, final)
        else:
            summary = _fit(cfg, workspace, stage, index, loggers)
        module = stage.module
        index += 1
        seed_all(step_seed(cfg.seed, index, 0, 0))
        stage = next(rest, None)
    return module, summary


def _fit(
    cfg: ExperimentConfig,
    workspace: ws.Workspace,
    stage: Stage,
    index: int,
    loggers: list[Any],
) -> dict[str, float]:
    folder = workspace.path / "checkpoints" / stage.name
    start = ckpt.latest(folder)
    trainer = build_trainer(cfg, stage, index, workspace, loggers)
    step = 0
    if start is not None:
        content = ckpt.load(start)
        ckpt.check_fits(stage.module, content["state_dict"], start)
        step = int(content["global_step"])
        stage.data.start_at(step * trainer.accumulate_grad_batches)
        if trainer.is_global_zero:
            print(f"{stage.name}: goes on after step {step}")  # noqa: T201
    if trainer.is_global_zero:
        asked = stage_config(cfg.trainer, stage)
        if (used := run_precision(asked)) != asked.precision:
            print(f"{stage.name}: this processor only emulates {asked.precision}; runs in {used}")  # noqa: T201
        drop_rows_after(workspace.path / "metrics.csv", stage.name, step)
    whole = Unsharded(stage.module) if isinstance(trainer.strategy, FSDPStrategy) else None
    trainer.fit(stage.module, stage.data, ckpt_path=start, weights_only=True)
    trainer.strategy.barrier("the last checkpoint has its name")
    best, last = folder / "best.ckpt", ckpt.latest(folder)
    final = best if best.exists() else last
    assert final is not None
    if whole is not None:
        whole.restore()
    ckpt.load_weights(stage.module, final)
    if trainer.is_global_zero:
        ckpt.mark_finished(folder, final)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    log = next(c for c in callbacks if isinstance(c, LogTerms))
    return log.summary(trainer)


def is_main_process() -> bool:
    """Whether this process is the one that evaluates and prints."""
    external = _externally_launched()
    if external is not None:
        return external == 0
    return (
        int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    )


def _now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")
