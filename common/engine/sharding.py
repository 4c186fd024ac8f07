"""FSDP2: parameters, gradients and optimiser states shared out over all processes."""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from common.distributed.differentiable import all_reduce_mean
from common.engine.lifecycle.launch import TIMEOUT

STEPS = ("training_step", "validation_step")  # what the trainer calls in place of `forward`
M = TypeVar("M", bound=LightningModule)


class Sharded(ModelParallelStrategy):
    """FSDP2 over all processes; checkpoints open on any number of them.

    Args:
        world_size: processes on all nodes.
        shard_checkpoints: each process writes its share in the background; False: the first one
            gathers and writes everything.
    """

    def __init__(self, world_size: int, shard_checkpoints: bool = False) -> None:
        super().__init__(
            data_parallel_size=world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=shard_checkpoints,
            timeout=TIMEOUT,
        )
        self.writer: Any = None
        if shard_checkpoints:
            from common.engine.sharded_files import ShardWriter  # half a second of imports

            self.writer = ShardWriter()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a file, or begin to write shards."""
        if self.writer is None:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        else:
            self.writer.start(checkpoint, Path(filepath))

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a file or a folder of shards that `newest_intact` has verified."""
        path = Path(checkpoint_path)
        if not path.is_dir():
            return super().load_checkpoint(path, weights_only)
        from common.engine.sharded_files import restore

        assert self.model is not None
        return restore(self.model, self.optimizers, path)


@contextlib.contextmanager
def copy_to_shard(module: M) -> Iterator[M]:
    """A copy to shard and train, which takes over the memory of the module's parameters.

    FSDP2 replaces parameters, hooks and classes inside a module for good, while the next stages,
    evaluation and export need the module as it was. After the block its parameters are allocated
    again, with no values: load those of the checkpoint.
    """
    module.trainer = None  # of an earlier stage
    parameters = {p: p.shape for p in module.parameters()}  # tied ones once
    shared = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in parameters}
    duplicate = copy.deepcopy(module, dict(shared))
    shared.clear()
    for parameter in parameters:
        parameter.data = parameter.data.new_empty(0)
    yield duplicate
    for parameter, shape in parameters.items():
        parameter.data = parameter.data.new_empty(shape)


def shard(module: nn.Module, units: set[type[nn.Module]], mesh: DeviceMesh, precision: str) -> None:
    """Shard a module in place, each of its blocks by itself.

    Args:
        module: whole, the same on all processes; one that is sharded already stays as it is.
        units: classes of the blocks whose parameters are gathered one block at a time.
        mesh: one dimension, all processes.
        precision: of the trainer; under ``bf16-mixed`` blocks are gathered in bfloat16. Gradients
            are summed in float32 in each, also those of ``bf16-true``, which are kept in bfloat16.
    """
    if isinstance(module, FSDPModule):
        return
    # 64-true stays as it is: None sums in the gradient's own dtype
    summed = torch.float32 if precision.startswith("bf16") else None
    outside = MixedPrecisionPolicy(reduce_dtype=summed)
    mixed = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=summed)
    policy = mixed if precision == "bf16-mixed" else outside
    scalars = {p for p in module.parameters() if p.ndim == 0}  # logit scales: nothing to share out
    blocks = [part for part in module.modules() if type(part) in units]
    for block in reversed(blocks):  # inner ones first
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=scalars)
    fully_shard(module, mesh=mesh, mp_policy=outside, ignored_params=scalars)
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_average)  # type: ignore[no-untyped-call]
    for name in STEPS:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def _average(parameter: nn.Parameter) -> None:
    """Mean of a whole parameter's gradient over ranks, which FSDP leaves alone.

    Harmless when repeated.
    """
    assert parameter.grad is not None
    wide = torch.promote_types(parameter.grad.dtype, torch.float32)
    parameter.grad = all_reduce_mean(parameter.grad.to(wide)).to(parameter.grad.dtype)


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Shards and whole tensors apart: no operation takes both."""
    kinds: tuple[list[Tensor], list[Tensor]] = [], []
    for tensor in tensors:
        kinds[isinstance(tensor, DTensor)].append(tensor)
    return [kind for kind in kinds if kind]


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Norm of all gradients together, the shards of other ranks included; 0-dim."""
    norms = [torch.nn.utils.get_total_norm(part) for part in by_kind(gradients)]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return whole[0] if len(whole) == 1 else torch.stack(whole).norm()


def clip_to(parameters: Iterable[Tensor], largest: float) -> None:
    """Scale all gradients so that their `total_norm` is at most `largest`."""
    trained = [p for p in parameters if p.grad is not None]
    norm = total_norm([p.grad for p in trained if p.grad is not None])
    for part in by_kind(trained):
        torch.nn.utils.clip_grads_with_norm_(part, largest, norm)
