"""TrainerConfig -> lightning.Trainer with our callbacks and loggers."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from common.config import ExperimentConfig, TrainerConfig, UserError, check_ranges, most_processes
from common.engine.callbacks import EMA, LogTerms, MatmulPrecision, SaveBadBatch, StepSeed
from common.engine.checkpoint import RunCheckpoint, WholeFiles
from common.engine.experiment import Stage
from common.engine.lifecycle.launch import TIMEOUT, uses_cuda
from common.engine.module import AlternatingModule
from common.engine.progress import TrainingProgress
from common.engine.sharding import Sharded
from common.engine.tracking import MetricsCSV
from common.engine.workspace import Workspace

PROCESS_BYTES = 1 << 29  # that a process takes at least: torch alone is half of it

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*passed in a `val_dataloader` but have no.*")
warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")


def stage_config(base: TrainerConfig, stage: Stage) -> TrainerConfig:
    """The trainer section with the stage's overrides.

    Raises:
        UserError: the stage overrides a field that does not exist, or breaks a rule.
    """
    values = {**asdict(base), **stage.trainer}
    if "max_steps" in stage.trainer or "max_epochs" in stage.trainer:
        values = {**asdict(base), "max_steps": None, "max_epochs": None, **stage.trainer}
    try:
        check_ranges(TrainerConfig, values, f"stage '{stage.name}': ", "trainer.")
        return TrainerConfig(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"stage '{stage.name}': {error}") from error


def check_devices(cfg: TrainerConfig) -> None:
    """Refuse an accelerator that this machine lacks, before anything is built.

    Raises:
        UserError: no such device, or not as many.
    """
    mps = torch.backends.mps.is_available()
    here = {"cpu": 0, "mps": int(mps)}.get(cfg.accelerator, torch.cuda.device_count() or int(mps))
    if not here and cfg.accelerator in ("auto", "cpu"):
        if isinstance(cfg.devices, list) or cfg.devices == -1:
            raise UserError(
                f"trainer.devices={cfg.devices} names GPUs, and this run has none: give the number "
                "of processes, such as trainer.devices=1"
            )
        most = min(most_processes(), psutil.virtual_memory().total // PROCESS_BYTES)
        if isinstance(cfg.devices, int) and cfg.devices > max(1, most):
            raise UserError(
                f"trainer.devices={cfg.devices}: this machine has the cores and the memory for"
                f" {most} processes at most"
            )
        return
    asked = max(cfg.devices) + 1 if isinstance(cfg.devices, list) else cfg.devices
    if not here or (isinstance(asked, int) and asked > here):
        raise UserError(
            f"trainer.accelerator={cfg.accelerator} with trainer.devices={cfg.devices}: this "
            f"machine has {here} of them; trainer.accelerator=auto takes what there is"
        )


def world_size(cfg: TrainerConfig) -> int:
    """Number of processes that the config asks for."""
    accelerator = (
        "gpu" if cfg.accelerator == "auto" and torch.cuda.is_available() else cfg.accelerator
    )
    if isinstance(cfg.devices, list):
        per_node = len(cfg.devices)
    elif cfg.devices in ("auto", -1):
        per_node = max(1, torch.cuda.device_count()) if accelerator == "gpu" else 1
    else:
        per_node = int(cfg.devices)
    return per_node * cfg.num_nodes


def run_precision(cfg: TrainerConfig) -> str:
    """The precision that a run computes in: the config's, unless the processor only emulates it.

    A processor without bfloat16 arithmetic takes up to a hundred times as long for bf16-mixed as
    for 32-true, which it then runs in; `make train` reports it and meta.json records it.
    """
    on_gpu = cfg.accelerator == "gpu" or (cfg.accelerator == "auto" and torch.cuda.is_available())
    if cfg.precision == "bf16-mixed" and not on_gpu and not computes_bfloat16():
        return "32-true"
    return cfg.precision


def computes_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 (AVX-512 BF16, AMX, or Arm's bf16).

    AVX-512 alone does not: products are then emulated and slower than those in float32.
    """
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def epoch_steps(cfg: TrainerConfig, batches: int) -> int:
    """Optimiser steps of ``max_epochs`` passes over the data, at least one.

    Accumulation runs over the ends of epochs: what an epoch leaves over is the beginning of a step.

    Args:
        cfg: trainer section whose length is in epochs.
        batches: of one pass, on each device.
    """
    assert cfg.max_epochs is not None
    steps = cfg.max_epochs * batches / cfg.accumulate_grad_batches
    return max(1, math.floor(steps + 1e-9))  # 0.29 * 100 is 28.999999999999996


def total_steps(cfg: TrainerConfig, stage: Stage) -> tuple[int, float]:
    """Optimiser steps of a stage, and optimiser steps per epoch (0 if a stream does not say).

    Raises:
        UserError: max_epochs with a stream of unknown length.
    """
    batches = stage.data.batches_per_epoch(world_size(cfg))
    per_epoch = 0.0 if batches is None else batches / cfg.accumulate_grad_batches
    if cfg.max_steps is not None:
        return cfg.max_steps, per_epoch
    if not per_epoch:
        raise UserError(
            f"stage '{stage.name}' streams data of unknown length: set trainer.max_steps, "
            "or the number of samples in the data section"
        )
    assert batches is not None
    return epoch_steps(cfg, batches), per_epoch


def global_batch_size(cfg: TrainerConfig, stage: Stage) -> int:
    """Samples of an optimiser step over all devices."""
    return stage.data.batch_size * cfg.accumulate_grad_batches * world_size(cfg)


def check_accumulation(cfg: TrainerConfig, stage: Stage) -> None:
    """Refuse gradient accumulation that would not do what it is asked for.

    That is over several optimiser steps on a batch, and with an in-batch loss unless the config
    allows it.

    Raises:
        UserError: gradients would not be accumulated as the config asks for.
    """
    if cfg.accumulate_grad_batches > 1 and not stage.module.automatic_optimization:
        raise UserError(
            f"trainer.accumulate_grad_batches={cfg.accumulate_grad_batches}: stage '{stage.name}'"
            " makes several optimiser steps on each batch, over which gradients are not"
            " accumulated: set trainer.accumulate_grad_batches=1, with a larger data.batch_size or"
            " more devices"
        )
    if (
        cfg.accumulate_grad_batches > 1
        and stage.module.in_batch_negatives
        and not cfg.allow_small_negatives
    ):
        raise UserError(
            f"trainer.accumulate_grad_batches={cfg.accumulate_grad_batches} adds no negatives: "
            "each micro-batch is contrasted with itself only. Use the gradient cache for a truly "
            "larger batch, or set trainer.allow_small_negatives=true to accept this."
        )


def check_warmup(stage: Stage, steps: int, per_epoch: float) -> None:
    """Refuse a warm-up that never comes near the learning rate, warn of one longer than the run.

    Args:
        stage: its module has the optimiser section.
        steps: of the run.
        per_epoch: optimiser steps of an epoch.

    Raises:
        UserError: the run ends at less than a hundredth of the rate.
    """
    optim = stage.module.optim
    warmup = optim.warmup_steps + round(optim.warmup_epochs * per_epoch)
    if warmup <= max(steps, 1):
        return
    text = (
        f"stage '{stage.name}' ends after {steps} steps, in its warm-up of {warmup}: lower"
        " optim.warmup_steps or optim.warmup_epochs, or train longer"
    )
    if warmup >= 100 * steps and optim.warmup_start_lr < 0.01 * optim.lr:
        raise UserError(f"{text}; the learning rate stays below a hundredth of optim.lr")
    warnings.warn(text, stacklevel=2)


def check_validation(cfg: TrainerConfig, stage: Stage) -> None:
    """Refuse more processes than a validation set has rows: some would wait for the others.

    Raises:
        UserError: names the set.
    """
    ranks = world_size(cfg)
    for name, rows in stage.data.val_sets.items() if cfg.val_every_n_steps else ():
        if 0 < len(rows) < ranks:  # type: ignore[arg-type]
            raise UserError(
                f"validation set '{name}' of stage '{stage.name}' has {len(rows)} rows for"  # type: ignore[arg-type]
                f" {ranks} processes: give it one for each, lower trainer.devices or"
                " trainer.num_nodes, or set trainer.val_every_n_steps=null"
            )


def scale(cfg: ExperimentConfig, stage: Stage) -> dict[str, Any]:
    """World size, batch size, parameters and negatives of a first stage, for meta.json.

    Raises:
        UserError: settings that do not go together, see the checks above.
    """
    trainer_cfg = stage_config(cfg.trainer, stage)
    check_accumulation(trainer_cfg, stage)
    check_validation(trainer_cfg, stage)
    ranks = world_size(trainer_cfg)
    steps, per_epoch = total_steps(trainer_cfg, stage)
    check_warmup(stage, steps, per_epoch)
    step_batch = stage.data.batch_size * ranks
    return {
        "world_size": ranks,
        "global_batch_size": step_batch * trainer_cfg.accumulate_grad_batches,
        "num_steps": steps,
        "precision": run_precision(trainer_cfg),
        "parameters": sum(p.numel() for p in stage.module.parameters()),
        "negatives_per_query": stage.module.negatives_per_query(step_batch),
    }


def build_trainer(
    cfg: ExperimentConfig,
    stage: Stage,
    stage_index: int,
    workspace: Workspace,
    loggers: list[Any],
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """The trainer of one stage.

    Args:
        cfg: the experiment's config.
        stage: what is fitted.
        stage_index: position of the stage, part of the seed.
        workspace: the run folder.
        loggers: loggers shared by all stages (W&B); metrics.csv is added here.
        callbacks: called after those that follow the weights, before the checkpoint is written.
    """
    trainer_cfg = stage_config(cfg.trainer, stage)
    check_accumulation(trainer_cfg, stage)
    check_validation(trainer_cfg, stage)
    steps, per_epoch = total_steps(trainer_cfg, stage)
    if stage_index:  # that of the first stage was checked before the run began
        check_warmup(stage, steps, per_epoch)
    stage.module.warmup_epoch_steps = per_epoch
    stage.module.global_batch_size = global_batch_size(trainer_cfg, stage)
    clip = trainer_cfg.gradient_clip_val
    if isinstance(stage.module, AlternatingModule) and not stage.module.automatic_optimization:
        stage.module.largest_norm, clip = clip, None  # the trainer clips none but its own steps
    if trainer_cfg.num_threads:
        torch.set_num_threads(trainer_cfg.num_threads)
    if trainer_cfg.compile:
        stage.module.compile_encoders()
    folder = workspace.path / "checkpoints" / stage.name
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    validates = trainer_cfg.val_every_n_steps is not None and bool(stage.data.val_sets)
    return Trainer(
        accelerator=trainer_cfg.accelerator,
        devices=trainer_cfg.devices,
        num_nodes=trainer_cfg.num_nodes,
        strategy=_strategy(trainer_cfg),
        precision=run_precision(trainer_cfg),  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=trainer_cfg.accumulate_grad_batches,
        gradient_clip_val=clip,
        log_every_n_steps=trainer_cfg.log_every_n_steps,
        val_check_interval=_validation_interval(trainer_cfg) if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        deterministic="warn" if is_deterministic(trainer_cfg) else False,
        benchmark=not is_deterministic(trainer_cfg),  # cuDNN times its algorithms for each shape
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=[MetricsCSV(workspace.path / "metrics.csv", stage.name), *loggers],
        callbacks=_callbacks(cfg, trainer_cfg, stage, stage_index, folder, callbacks),
        plugins=[WholeFiles()],
        default_root_dir=workspace.path,
    )


def is_deterministic(cfg: TrainerConfig) -> bool:
    """Whether a fit takes deterministic operations alone: as the config says, else on a CPU."""
    return not uses_cuda(cfg) if cfg.deterministic is None else cfg.deterministic


def _callbacks(
    cfg: ExperimentConfig,
    trainer_cfg: TrainerConfig,
    stage: Stage,
    index: int,
    folder: Path,
    further: Sequence[Callback],
) -> list[Any]:
    samples = global_batch_size(trainer_cfg, stage)
    checkpoint = RunCheckpoint(
        folder,
        trainer_cfg.checkpoint_every_n_steps,
        trainer_cfg.keep_checkpoints,
        stage.monitor,
        stage.monitor_mode,
        folder.parents[1] / "metrics.csv",
    )
    ema = [] if trainer_cfg.ema_decay is None else [EMA(trainer_cfg.ema_decay)]
    return [
        StepSeed(cfg.seed, index),
        MatmulPrecision(trainer_cfg.matmul),
        *ema,
        LogTerms(trainer_cfg.log_every_n_steps, samples),
        SaveBadBatch(folder.parents[1]),
        *further,
        TrainingProgress(stage.name),
        checkpoint,
    ]


def _validation_interval(cfg: TrainerConfig) -> int:
    assert cfg.val_every_n_steps is not None
    return cfg.val_every_n_steps * cfg.accumulate_grad_batches


def _strategy(cfg: TrainerConfig) -> Any:
    if cfg.strategy == "fsdp":
        if cfg.ema_decay is not None:
            raise UserError("trainer.ema_decay needs whole weights: use trainer.strategy=ddp")
        return Sharded(world_size(cfg), cfg.shard_checkpoints)
    if cfg.strategy == "ddp" or (cfg.strategy == "auto" and world_size(cfg) > 1):
        return DDPStrategy(timeout=TIMEOUT, gradient_as_bucket_view=True, static_graph=False)
    return "auto"
