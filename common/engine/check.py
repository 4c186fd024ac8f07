"""`make check`: what a config would take, without data, weights or an accelerator."""

from collections.abc import Sequence

import torch
from torch import nn

from common.config import ExperimentConfig, UserError
from common.engine.experiment import Plan
from common.engine.run import prepare
from common.engine.trainer import world_size

GIB = 2**30


def inspect(project: str, config: str, overrides: Sequence[str]) -> dict[str, str]:
    """Build the model on the meta device and describe the run.

    Returns:
        Rows of a two-column table: parameters, batch, steps, negatives, memory by strategy, and
        one row for each thing that must lie on disk.

    Raises:
        UserError: the config cannot be built.
    """
    cfg, experiment = prepare(project, config, overrides)
    plan = experiment.plan()
    with torch.device("meta"):
        module = plan.module()
    parameters = sum(p.numel() for p in module.parameters())
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    ranks = world_size(cfg.trainer)
    step_batch = cfg.data.batch_size * ranks
    global_batch = step_batch * cfg.trainer.accumulate_grad_batches
    rows = {
        "parameters": f"{parameters / 1e6:,.2f} M ({trainable / 1e6:,.2f} M trained)",
        "processes": f"{ranks} ({cfg.trainer.num_nodes} node(s))",
        "batch size": f"{cfg.data.batch_size:,} a device, {global_batch:,} in all",
        "samples": f"{plan.num_samples:,}",
        "steps": f"{count_steps(cfg, plan.num_samples, global_batch):,}",
        "negatives per query": f"{module.negatives_per_query(step_batch):,}",
    }
    rows |= memory_rows(plan, module, cfg.data.batch_size, parameters, trainable, ranks, cfg)
    for need in plan.requirements:
        state = "present" if need.present else "MISSING"
        rows[need.name] = f"{state}: {need.location}{'' if need.present else '; ' + need.hint}"
    return rows


def count_steps(cfg: ExperimentConfig, num_samples: int, global_batch: int) -> int:
    """Optimiser steps of the config."""
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    assert cfg.trainer.max_epochs is not None
    return int(cfg.trainer.max_epochs * (num_samples // global_batch))


def memory_rows(
    plan: Plan,
    module: nn.Module,
    batch_size: int,
    parameters: int,
    trainable: int,
    ranks: int,
    cfg: ExperimentConfig,
) -> dict[str, str]:
    """Memory per device: weights, gradients, optimiser, activations; DDP and FSDP."""
    weight_bytes = 2 if cfg.trainer.precision == "bf16-true" else 4
    # Adafactor keeps a row and a column of each matrix only
    states = {"adamw": 2, "sgd": 1, "lars": 1, "adafactor": 0}[cfg.optim.name]
    fixed = parameters * weight_bytes + trainable * weight_bytes * (1 + states)
    rows = {"weights + gradients + optimiser": f"{fixed / GIB:.2f} GiB a device with DDP"}
    if ranks > 1:
        rows["... sharded (FSDP)"] = f"{fixed / ranks / GIB:.2f} GiB a device"
    if plan.forward is not None:
        saved = saved_activations(plan, module, batch_size)
        half = cfg.trainer.precision in ("bf16-mixed", "16-mixed", "bf16-true")
        saved //= 2 if half else 1
        rows["activations (upper estimate)"] = f"{saved / GIB:.2f} GiB a device"
        rows["memory estimate"] = f"{(fixed + saved) / GIB:.2f} GiB a device"
    return rows


def saved_activations(plan: Plan, module: nn.Module, batch_size: int) -> int:
    """Bytes that autograd keeps for the backward pass, counted on the meta device in fp32."""
    seen: dict[int, torch.Tensor] = {}
    own = {id(p) for p in module.parameters()}
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in seen and id(base) not in own:
            seen[id(base)] = base  # keeps it alive, so that ids stay unique
            total += base.numel() * base.element_size()
        return tensor

    assert plan.forward is not None
    try:
        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            plan.forward(module, batch_size)
    except NotImplementedError as error:
        raise UserError(f"cannot estimate activations: {error}") from error
    return total
