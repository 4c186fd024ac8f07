"""`make check`: what a config needs, without data, weights or an accelerator."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from common.config import ExperimentConfig, UserError
from common.data.lookup import data_root
from common.engine.experiment import Plan
from common.engine.module import ContrastiveModule
from common.engine.node import node_rows, rates, step_flops, without_values
from common.engine.official import record_of
from common.engine.run import prepare
from common.engine.trainer import check_devices, epoch_steps, world_size

GIB = 2**30
# printed for a plan that counts less than a batch, as one does that has not seen its data and needs
# some stand-in
UNKNOWN = "not known without the data"
DEVICE_BYTES = 80e9  # of an H100 or A100, the largest device that a paper config names


def inspect(project: str, config: str, overrides: Sequence[str]) -> dict[str, str]:
    """Build the model on the meta device and describe the run.

    Returns:
        Rows of a two-column table: parameters, batch, steps, negatives, memory by strategy, one
        row for each thing that must lie on disk; last, if anything, what keeps this machine from
        it.

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
    steps = count_steps(cfg, plan.num_samples)
    rows = {
        "parameters": f"{parameters / 1e6:,.2f} M ({trainable / 1e6:,.2f} M trained)",
        "processes": f"{ranks} ({cfg.trainer.num_nodes} node(s))",
        "batch size": f"{cfg.data.batch_size:,} a device, {global_batch:,} in all",
        "samples": f"{plan.num_samples:,}" if plan.num_samples >= step_batch else UNKNOWN,
        "steps": f"{steps:,}" if steps else "by the data",
        "negatives per query": f"{module.negatives_per_query(step_batch):,}",
    }
    rows |= memory_rows(plan, module, cfg.data.batch_size, ranks, cfg)
    if cfg.trainer.accelerator != "cpu":
        rate = rates(cfg, plan, module, step_flops(cfg, plan, module))
        rows |= node_rows(rate, steps * global_batch)
    for need in plan.requirements:
        state = "present" if need.present else "MISSING"
        rows[need.name] = f"{state}: {need.location}{'' if need.present else '; ' + need.hint}"
        record = None if need.present else record_of(need, data_root(cfg.data.root))
        if record is not None:
            rows[need.name] += f"; make data SET={record.name}"
    missing = sum(not need.present for need in plan.requirements)
    lacking = [f"{missing} of the above MISSING"] if missing else []
    try:
        check_devices(cfg.trainer)
    except UserError as error:
        lacking.append(str(error))
    return rows | ({"not ready here": "; ".join(lacking)} if lacking else {})


def count_steps(cfg: ExperimentConfig, num_samples: int) -> int:
    """Optimiser steps of the config, as `common.engine.trainer.total_steps`.

    0 if that depends on the data.
    """
    if cfg.trainer.max_steps is not None:
        return cfg.trainer.max_steps
    batches = num_samples // (cfg.data.batch_size * world_size(cfg.trainer))
    return epoch_steps(cfg.trainer, batches) if batches else 0  # none: a stand-in, see `UNKNOWN`


def memory_rows(
    plan: Plan[Any],
    module: ContrastiveModule,
    batch_size: int,
    ranks: int,
    cfg: ExperimentConfig,
) -> dict[str, str]:
    """Memory per device by strategy: weights, gradients, optimiser; activations; their sum.

    DDP keeps everything on each device. FSDP keeps a share of it and, for a moment, the weights of
    the block that is at work (of the whole module, if it names no blocks).
    """
    memory = device_memory(plan, module, batch_size, ranks, cfg)
    fixed, more, saved = memory.fixed, sum(memory.extra.values()), memory.saved
    rows = {"weights + gradients + optimiser": f"{fixed / GIB:.2f} GiB a device with DDP"}
    if ranks > 1:
        rows["... sharded (FSDP)"] = f"{fixed / ranks / GIB:.2f} GiB a device"
    rows |= {name: f"{count / GIB:.2f} GiB a device" for name, count in memory.extra.items()}
    if saved is None:
        return rows | ({"activations": f"not known: {memory.reason}"} if memory.reason else {})
    rows["activations (upper estimate)"] = f"{saved.total / GIB:.2f} GiB a device"
    rows["memory estimate"] = f"{(fixed + more + saved.total) / GIB:.2f} GiB a device"
    if not saved.largest_block:
        return rows
    rows["... with gradient checkpointing"] = (
        f"{saved.recomputed / GIB:.2f} GiB of activations a device"
    )
    for count in (1, *sorted({2, 4, 8, ranks} - {1})):
        name = "one device, or DDP" if count == 1 else f"FSDP on {count} devices"
        share = memory.share(count)
        rows[f"memory, {name}"] = (
            f"{(share + saved.total) / GIB:.2f} GiB a device; "
            f"{(share + saved.recomputed) / GIB:.2f} GiB with gradient checkpointing"
        )
    return rows


def fixed_bytes(module: ContrastiveModule, cfg: ExperimentConfig) -> tuple[int, int]:
    """Bytes of weights, gradients and optimiser states; and of the weights of the largest block."""
    forced = 2 if cfg.trainer.precision == "bf16-true" else None
    # Adafactor keeps a row and a column of each matrix only
    states = {"adafactor": 0, "sgd": 1, "lars": 1}.get(cfg.optim.name, 2)  # others: two moments

    def weights(part: nn.Module) -> int:
        return sum(p.numel() * (forced or p.element_size()) for p in part.parameters())

    trained = sum(
        p.numel() * (forced or p.element_size()) for p in module.parameters() if p.requires_grad
    )
    units = tuple(module.fsdp_units())
    blocks = [weights(m) for m in module.modules() if units and isinstance(m, units)]
    whole = weights(module)
    return whole + trained * (1 + states), max(blocks, default=whole)


class Saved(NamedTuple):
    """Bytes that autograd keeps for the backward pass."""

    total: int
    largest_block: int  # saved within the block that saves most; 0 without blocks
    recomputed: int  # kept when blocks are recomputed: their inputs, one block, all outside


class Memory(NamedTuple):
    """Bytes of one device."""

    fixed: int  # weights, gradients, optimiser states
    block: int  # weights of the largest block
    extra: dict[str, int]  # what the plan names alongside them
    saved: Saved | None  # None where activations cannot be counted
    reason: str  # why not

    def share(self, devices: int) -> float:
        """What one of several devices with FSDP holds without activations.

        Of one device, or DDP: all.
        """
        state = self.fixed if devices == 1 else self.fixed / devices + self.block
        return state + sum(self.extra.values())


def device_memory(
    plan: Plan[Any],
    module: ContrastiveModule,
    batch_size: int,
    ranks: int,
    cfg: ExperimentConfig,
) -> Memory:
    """Memory of one of `ranks` devices; activations in the precision of the config."""
    fixed, block = (count // plan.spread for count in fixed_bytes(module, cfg))
    extra = {} if plan.extra_bytes is None else dict(plan.extra_bytes(module, ranks))
    if plan.forward is None:
        return Memory(fixed, block, extra, None, "")
    try:
        saved = saved_activations(plan, module, batch_size)
    except UserError as error:
        return Memory(fixed, block, extra, None, str(error))
    half = 2 if cfg.trainer.precision in ("bf16-mixed", "16-mixed", "bf16-true") else 1
    return Memory(fixed, block, extra, Saved(*(count // half for count in saved)), "")


def recomputed_blocks(module: ContrastiveModule) -> list[nn.Module]:
    """What gradient checkpointing recomputes: the module's blocks, else transformers' layers."""
    units: tuple[type[nn.Module], ...] = tuple(module.fsdp_units())
    if not units and (layers := sys.modules.get("transformers.modeling_layers")) is not None:
        units = (layers.GradientCheckpointingLayer,)
    return [m for m in module.modules() if units and isinstance(m, units)]


def saved_activations(plan: Plan[Any], module: ContrastiveModule, batch_size: int) -> Saved:
    """Bytes that autograd keeps for the backward pass, counted on the meta device in fp32.

    Raises:
        UserError: an operation without a meta implementation.
    """
    seen: dict[int, torch.Tensor] = {}
    inside: dict[int, int] = {}  # block -> bytes; -1: outside of all blocks
    inputs: dict[int, int] = {}
    stack = [-1]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in seen and not isinstance(base, nn.Parameter):
            seen[id(base)] = base  # keeps it alive, so that ids stay unique
            inside[stack[-1]] = inside.get(stack[-1], 0) + base.numel() * base.element_size()
        return tensor

    def enter(block: nn.Module, args: tuple[Any, ...]) -> None:
        stack.append(id(block))
        inputs[id(block)] = sum(
            a.numel() * a.element_size() for a in args if isinstance(a, torch.Tensor)
        )

    def leave(block: nn.Module, args: Any, output: Any) -> None:
        stack.pop()

    blocks = recomputed_blocks(module)
    handles = [b.register_forward_pre_hook(enter) for b in blocks]
    handles += [b.register_forward_hook(leave) for b in blocks]
    assert plan.forward is not None
    try:
        with without_values(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            plan.forward(module, batch_size)
    except (NotImplementedError, RuntimeError) as error:  # RuntimeError: it looks at a value
        raise UserError(f"cannot estimate activations: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    largest = max((v for k, v in inside.items() if k != -1), default=0)
    outside = inside.get(-1, 0)
    return Saved(sum(inside.values()), largest, outside + sum(inputs.values()) + largest)
