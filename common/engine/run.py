"""`make train`: the stages of a run one after the other, then its evaluation."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from common.config import ExperimentConfig, UserError, load
from common.data.layouts import layout_of
from common.engine import checkpoint as ckpt
from common.engine.callbacks import LogTerms, seed_all, step_seed
from common.engine.experiment import Experiment, M, Stage
from common.engine.lifecycle.find import find_unfinished
from common.engine.lifecycle.launch import (
    agreed_run_id,
    check_launcher,
    is_main_process,
    job_run_id,
    take_device,
    wait_for_owner,
)
from common.engine.lifecycle.peers import Peers, lost, row_counts
from common.engine.lifecycle.run import Run
from common.engine.lifecycle.settings import batch_of_processes, check_shared, resumed_config
from common.engine.lifecycle.signals import Signals, StopSignal
from common.engine.lifecycle.stalls import Pulse
from common.engine.module import ContrastiveModule
from common.engine.sharding import copy_to_shard
from common.engine.tracking import check_tracking, close_loggers, drop_rows_after, open_loggers
from common.engine.trainer import (
    build_trainer,
    check_devices,
    run_precision,
    scale,
    stage_config,
    world_size,
)
from common.engine.workspace import Workspace, check_writable, run_folder
from common.evaluation.own_data import Judge, OwnData, own_layout, own_path
from common.evaluation.tables import write_report
from common.failures import is_lost_peer
from common.files import sync
from common.registry import config_class, load_project

BATCH_SIZE = "data.batch_size"  # of a process
RUN_PATH = "CONTRASTIVE_RUN_PATH"  # folder of the run, for the processes that a trainer launches


def prepare(
    project: str, config: str, overrides: Sequence[str]
) -> tuple[ExperimentConfig, Experiment[Any]]:
    """Typed config and experiment of a project; it evaluates ``eval.own`` if that is set."""
    cfg = load(config_class(project), project, config, overrides)
    experiment: Experiment[Any] = load_project(project).build(cfg)
    options = _own_data(cfg)
    if options is None or options.own is None:
        return cfg, experiment
    path = own_path(options.own, cfg.data.root)
    layout = own_layout(path, options.judges, project)
    if (judge := experiment.judges.get(layout)) is not None:
        return cfg, replace(experiment, evaluate=lambda module, ws: judge(module, ws, path))
    if not options.judges[layout].settings:
        raise UserError(f"{project}/{config} has no model that can judge {layout.value}")
    return cfg, experiment


def _own_data(cfg: ExperimentConfig) -> OwnData | None:
    """The evaluation section; None in a config without one."""
    section = getattr(cfg, "eval", None)
    return section if isinstance(section, OwnData) else None


def judge_of(project: str, config: str, overrides: Sequence[str]) -> Judge | None:
    """How ``eval.own`` of a config is judged; None without it."""
    cfg = load(config_class(project), project, config, overrides)
    options = _own_data(cfg)
    if options is None or options.own is None:
        return None
    return options.judges[layout_of(own_path(options.own, cfg.data.root))]


def train(project: str, config: str, overrides: Sequence[str] = ()) -> Path:
    """Open the run, fit all stages, evaluate, close.

    Returns:
        The run folder.

    Raises:
        UserError: anything in config, data or checkpoint that the user can fix.
    """
    clock = time.monotonic()
    resumed, cfg, changes, overrides = _run_to_resume(project, config, overrides)
    check_launcher(cfg.trainer)
    check_devices(cfg.trainer)
    take_device(cfg.trainer)  # some stages encode or generate before the trainer chooses the device
    check_writable(run_folder(cfg, project, config))
    check_tracking(cfg)
    experiment: Experiment[Any] = load_project(project).build(cfg)
    seed_all(step_seed(cfg.seed, 0, 0, 0))
    stages = experiment.stages()
    first = next(stages)  # builds data and module: reports missing files before a folder exists
    size = scale(cfg, first)
    before = {} if resumed is None else resumed.meta
    if resumed is not None:
        _check_shared(resumed.path.name, before, cfg, first)
    run = resumed or _new_run(project, config, cfg)
    run.clock = clock
    with Signals() as signals, run:
        if resumed is None:
            run.create(cfg, overrides, size)
        else:
            run.resume(cfg, overrides, changes, size)
        loggers = open_loggers(cfg, run.workspace(), run.owner)
        os.environ[RUN_PATH] = str(run.path)
        try:
            checked = _checked(run.path.name, before, cfg, chain([first], stages))
            module, speed = _fit_stages(run, signals, cfg, checked, loggers)
        finally:
            os.environ.pop(RUN_PATH, None)
        if run.owner:
            metrics = evaluate_module(experiment, module, run.workspace(sinks=loggers))
            close_loggers(loggers, metrics)
            run.finish(**speed)
        elif experiment.assist is not None:
            module.eval()
            with torch.inference_mode():
                experiment.assist(module)
    if not run.owner:
        wait_for_owner(run.path)
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


# -- stages ----------------------------------------------------------------------------------------


def _check_shared(
    name: str, before: Mapping[str, Any], cfg: ExperimentConfig, stage: Stage
) -> None:
    """See `check_shared`; before: meta.json as it was when the run was resumed."""
    check_shared(
        f"stage '{stage.name}' of {name}",
        before,
        world_size(stage_config(cfg.trainer, stage)),
        equal=stage.data.batch_size == cfg.data.batch_size,
        streaming=stage.data.streaming,
    )


def _checked(
    name: str, before: Mapping[str, Any], cfg: ExperimentConfig, stages: Iterable[Stage]
) -> Iterator[Stage]:
    for stage in stages:
        _check_shared(name, before, cfg, stage)
        yield stage


def _fit_stages(
    run: Run, signals: Signals, cfg: ExperimentConfig, stages: Iterable[Stage], loggers: list[Any]
) -> tuple[ContrastiveModule, dict[str, float]]:
    """Fit what is not fitted yet.

    Returns:
        The last stage's module; speed and memory of the last fit, empty when nothing was fitted.
    """
    speed: dict[str, float] = {}
    names: set[str] = set()
    for index, stage in enumerate(stages):
        if stage.name in names:
            raise ValueError(f"two stages are called '{stage.name}'")
        names.add(stage.name)
        if not _load_finished(stage, run.path / "checkpoints" / stage.name, index):
            speed = _fit(run, signals, cfg, stage, index, loggers)
        module = stage.module
        seed_all(step_seed(cfg.seed, index + 1, 0, 0))  # the next stage is built from here
    run.record(fitted=True)
    return module, speed


def _fit(
    run: Run,
    signals: Signals,
    cfg: ExperimentConfig,
    stage: Stage,
    index: int,
    loggers: list[Any],
) -> dict[str, float]:
    """Fit a stage from its beginning or its newest checkpoint, then load its final weights.

    Returns:
        Speed and memory of the fit.
    """
    folder = run.path / "checkpoints" / stage.name
    trainer_cfg = stage_config(cfg.trainer, stage)
    selects = stage.monitor is not None and bool(stage.data.val_sets)
    start = _start(stage, folder, run.owner, trainer_cfg.val_every_n_steps if selects else None)
    sharded = trainer_cfg.strategy == "fsdp"
    with copy_to_shard(stage.module) if sharded else nullcontext(stage.module) as module:
        pulse = Pulse(trainer_cfg.stall_seconds)
        peers = Peers(stage.name, signals, pulse, run.fail)
        record = RecordRun(run, stage.name, resumes=start is not None)
        further = [pulse, record, StopSignal(signals), peers]
        trainer = build_trainer(
            cfg, replace(stage, module=module), index, run.workspace(), loggers, further
        )
        step = 0
        if start is not None:
            content = ckpt.load(start, values=False)
            ckpt.check_fits(module, content["state_dict"], start)
            step = int(content["global_step"])
            del content  # the optimiser's states among it: Lightning reads its own
            stage.data.start_at(step * trainer.accumulate_grad_batches)
        if trainer.is_global_zero:
            if start is not None:
                print(f"{stage.name}: continues after step {step}")  # noqa: T201
            elif run.meta.get("resumed"):
                print(f"{stage.name}: no checkpoint yet, begins with its first step")  # noqa: T201
            if (precision := run_precision(trainer_cfg)) != trainer_cfg.precision:
                print(  # noqa: T201
                    f"{stage.name}: this processor only emulates {trainer_cfg.precision};"
                    f" runs in {precision}"
                )
            drop_rows_after(run.path / "metrics.csv", stage.name, step)
        well = False
        try:
            trainer.fit(module, stage.data, ckpt_path=start, weights_only=True)
            well = True
        except Exception as error:
            if trainer.world_size > 1 and is_lost_peer(error):
                raise UserError(lost(peers.missing())) from error
            raise
        finally:
            pulse.stop()
            peers.stop(well)
    best = folder / "best.ckpt"
    final = best if best.exists() else ckpt.saved_checkpoints(folder)[-1]
    try:
        ckpt.load_weights(stage.module, final)
    except ckpt.Damaged as error:
        raise _unusable(error, final) from error
    if trainer_cfg.precision in ("bf16-true", "64-true"):
        stage.module.float()  # evaluation and export are in float32 whatever the weights were in
    if trainer.is_global_zero:
        ckpt.mark_finished(folder, final, index)
    signals.release()  # the stage is saved: one that came after its last step ends the run here
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next(c for c in callbacks if isinstance(c, LogTerms)).summary(trainer)


class RecordRun(Callback):
    """Notes in meta.json the first step, the time so far, and the rows that a stage began with.

    A stage that is resumed compares those with its own.
    """

    def __init__(self, run: Run, stage: str, resumes: bool) -> None:
        self.run, self.stage, self.resumes, self.noted = run, stage, resumes, False

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Refuse other data than the stage was begun with; their order depends on their number.

        Raises:
            UserError: a set has another number of rows.
        """
        rows, known = row_counts(trainer), self.run.meta.get("rows")
        known = known if isinstance(known, dict) else {}
        before = known.get(self.stage)
        if self.resumes and isinstance(before, dict):
            for name in rows.keys() & before.keys():
                if rows[name] != before[name]:
                    raise UserError(
                        f"stage '{self.stage}' of {self.run.path.name} began with {before[name]}"
                        f" {name}, and now there are {rows[name]}: put the data back, or start a"
                        " new run"
                    )
        self.run.record(rows={**known, self.stage: rows})

    def on_train_batch_end(self, *_: Any) -> None:
        """The first step."""
        if not self.noted:
            self.run.note_step()
            self.noted = True

    def on_save_checkpoint(self, *_: Any) -> None:
        """The time: a process that is killed later does not record its own.

        What was logged up to a checkpoint is synced before it: a resumed run does not log it again.
        """
        if self.run.owner and (curves := self.run.path / "metrics.csv").exists():
            sync(curves)
        self.run.record(wall_seconds=self.run.seconds)


def _start(stage: Stage, folder: Path, owner: bool, validated_every: int | None) -> Path | None:
    """The checkpoint that a stage is resumed from; None at its beginning.

    Damaged ones are reported, and renamed so that they never replace an intact one.
    """
    start, damaged = ckpt.newest_intact(folder, validated_every)
    if damaged and start is None:
        reasons = "; ".join(f"{path.name} {reason}" for path, reason in damaged.items())
        raise UserError(
            f"no checkpoint of stage '{stage.name}' is intact ({reasons}): "
            f"delete {folder} to fit this stage from its beginning"
        )
    for path, reason in damaged.items() if owner else ():
        print(f"{stage.name}: {path.name} {reason}; it is passed over")  # noqa: T201
        path.replace(path.with_name(f"{path.name}.damaged"))
    return start


def _load_finished(stage: Stage, folder: Path, index: int) -> bool:
    """Load the weights of a finished stage; False when it has to be fitted (further)."""
    final = ckpt.finished(folder) or stage.weights
    if final is None:
        return False
    try:
        ckpt.load_weights(stage.module, final)
    except ckpt.Damaged as error:
        if ckpt.NAME.fullmatch(final.name):  # an older step leads to the same weights again
            return False
        raise _unusable(error, final) from error
    if final == stage.weights and is_main_process():
        _copy_weights(final, folder, index)
    return True


def _copy_weights(weights: Path, folder: Path, index: int) -> None:
    """Put another run's weights into this one's folder, for its evaluation and export."""
    folder.mkdir(parents=True, exist_ok=True)
    best = folder / "best.ckpt"
    try:
        best.hardlink_to(weights)
    except FileExistsError:
        pass
    except OSError:  # another file system, or a folder of shards
        copy: Any = shutil.copytree if weights.is_dir() else shutil.copyfile
        copy(weights, best)
    ckpt.mark_finished(folder, best, index)


def _unusable(error: Exception, final: Path) -> ckpt.Damaged:
    return ckpt.Damaged(f"{error}. Delete {final.parent} to fit this stage from its beginning")


# -- which run -------------------------------------------------------------------------------------


def _run_to_resume(
    project: str, config: str, overrides: Sequence[str]
) -> tuple[Run | None, ExperimentConfig, dict[str, list[Any]], Sequence[str]]:
    """The run that is resumed (None: a new one), the config, what changes in it, the overrides.

    Another number of processes adds an override: the batch size that keeps the global batch.

    A run is resumed by ``resume=``, in a process that another one of the run has started, and in a
    scheduler's job that was started again.
    """
    schema = config_class(project)
    cfg = load(schema, project, config, overrides)
    owner = is_main_process()
    if (path := os.environ.get(RUN_PATH)) is not None:
        run = Run(Path(path), project, config)
    elif cfg.resume is not None:
        match = find_unfinished(cfg, project, config, cfg.resume)
        run = Run(match.path, project, config, owner)
    elif (job := job_run_id(cfg)) is not None:
        run = Run(run_folder(cfg, project, config) / job, project, config, owner)
        if not (run.path / "meta.json").exists():
            return None, cfg, {}, overrides
    else:
        return None, cfg, {}, overrides
    meta = run.meta
    if (meta["project"], meta["config"]) != (project, config):
        raise UserError(
            f"{run.path} is a run of {meta['project']}/{meta['config']}, not of {project}/{config}"
        )
    if cfg.run_id not in (None, run.path.name):
        raise UserError(f"run_id={cfg.run_id} and resume={run.path.name} name two runs")
    if meta.get("cpu_gemm", "vendor") != "vendor":
        raise UserError(
            f"{run.path.name} was made by 0.1.0 with CONTRASTIVE_CPU_GEMM={meta['cpu_gemm']}, which"
            " this version does not have: start a new run"
        )
    meta["resolved"] = run.settings()
    cfg, changes = resumed_config(schema, run.path, meta, overrides)
    processes = world_size(cfg.trainer)
    if meta.get("world_size", processes) != processes:
        size = batch_of_processes(run.path.name, meta, processes)
        overrides = [*overrides, f"{BATCH_SIZE}={size}"]
        cfg, changes = resumed_config(schema, run.path, meta, overrides, free=[BATCH_SIZE])
    return run, cfg, changes, overrides


def _new_run(project: str, config: str, cfg: ExperimentConfig) -> Run:
    folder = run_folder(cfg, project, config) / agreed_run_id(cfg)
    return Run(folder, project, config, is_main_process())
