"""A model of the node of eight H100 that paper configs are for: what limits it, and for how long.

It is arithmetic with the constants of this file, not a measurement. A step takes as long as the
slowest of three that run at the same time: loaders, products, and the reduction of gradients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from common.config import ExperimentConfig, TrainerConfig
from common.engine.experiment import Plan
from common.engine.module import ContrastiveModule
from common.engine.trainer import world_size

# FLOP/s of an H100 SXM without sparsity, by its data sheet; float32 products by `trainer.matmul`
HALF = 989e12
FLOAT64 = 67e12
FLOAT32 = {"highest": 67e12, "high": 494.7e12, "medium": HALF}
UTILISATION = 0.4  # of the peak; what well-tuned training loops report for transformers
BACKWARD = 3.0  # a step is a forward pass and a backward pass of twice its products
RECOMPUTED = 4.0  # and a second forward pass where blocks are recomputed
CORES = 112  # of a node
# CPU-seconds of a loader: to read and decode a JPEG of 500 x 375 pixels; to draw and cut a view of
# 224 pixels; to draw one of an image in memory; to read and tokenise a short text (AMD EPYC)
READ, VIEW, CACHED_VIEW, TEXT = 1.0e-3, 0.83e-3, 0.1e-3, 0.15e-3
# bytes a second that a GPU sends while it receives as much, by data sheet, and the share of it
# that ring reductions reach
NVLINK, INFINIBAND, REACHED = 450e9, 50e9, 0.8


class Rates(NamedTuple):
    """Samples a second over all devices; None where it cannot be counted."""

    data: float | None
    compute: float | None
    network: float | None  # None on one device

    @property
    def limit(self) -> str | None:
        """What is slowest; None while data or products are not known."""
        if self.data is None or self.compute is None:
            return None
        names = {"data": self.data, "compute": self.compute, "network": self.network}
        return min(names, key=lambda name: names[name] or float("inf"))


def rates(
    cfg: ExperimentConfig, plan: Plan[Any], module: ContrastiveModule, flops: float | None
) -> Rates:
    """What loaders, products and network allow.

    Args:
        cfg: the experiment's config.
        plan: what a loader spends on a sample.
        module: on the meta device.
        flops: of one optimiser step over all devices.
    """
    trainer, ranks = cfg.trainer, world_size(cfg.trainer)
    batch = cfg.data.batch_size * ranks * trainer.accumulate_grad_batches
    data = compute = network = None
    if plan.loader_seconds is not None:
        data = loader_cores(cfg) / plan.loader_seconds
    if flops:
        compute = batch / (flops / (ranks * peak(trainer) * UTILISATION))
    if ranks > 1:
        network = batch / reduction_seconds(module, trainer)
    return Rates(data, compute, network)


def sample_seconds(*, views: int = 0, files: bool = False, texts: int = 0) -> float:
    """CPU-seconds that a loader spends on a sample.

    Args:
        views: of its image; colours and normalisation run on the GPU.
        files: whether the image is a file.
        texts: that are tokenised.
    """
    image = READ + views * VIEW if files else views * CACHED_VIEW
    return image + texts * TEXT


def loader_cores(cfg: ExperimentConfig) -> int:
    """Cores that load: the workers of all ranks, at most those of the nodes."""
    ranks, nodes = world_size(cfg.trainer), cfg.trainer.num_nodes
    return min(ranks * max(1, int(getattr(cfg.data, "num_workers", 0))), CORES * nodes)


def reduction_seconds(module: ContrastiveModule, trainer: TrainerConfig) -> float:
    """Of one all-reduce of the gradients in a ring over all devices."""
    ranks = world_size(trainer)
    width = 2 if trainer.precision == "bf16-true" else None
    size = sum(
        p.numel() * (width or p.element_size()) for p in module.parameters() if p.requires_grad
    )
    link = INFINIBAND if trainer.num_nodes > 1 else NVLINK
    return 2 * size * (ranks - 1) / ranks / (link * REACHED)


def node_rows(rate: Rates, num_samples: int) -> dict[str, str]:
    """Rows of `make check`.

    Args:
        rate: samples a second.
        num_samples: of the whole run; 0: not known.
    """
    known = {
        "loaders": rate.data,
        f"GPUs at {UTILISATION:.0%}": rate.compute,
        "network": rate.network,
    }
    parts = [f"{name} {value:,.0f}" for name, value in known.items() if value is not None]
    rows = {"samples a second, at most": "; ".join(parts)} if parts else {}
    if rate.limit is None:
        return rows
    slowest = min(value for value in rate if value is not None)
    rows["limited by (model)"] = rate.limit
    if num_samples:
        rows["hours (model)"] = f"{num_samples / slowest / 3600:,.2f}"
    return rows


def step_flops(cfg: ExperimentConfig, plan: Plan[Any], module: ContrastiveModule) -> float | None:
    """Floating-point operations of one optimiser step over all devices."""
    if plan.forward is None:
        return None
    products = forward_flops(plan.forward, module, cfg.data.batch_size)
    passes = RECOMPUTED if recomputes(cfg) else BACKWARD
    times = passes * cfg.trainer.accumulate_grad_batches * world_size(cfg.trainer)
    return None if products is None else times * products


def peak(cfg: TrainerConfig) -> float:
    """FLOP/s of an H100 in the precision that a config trains in."""
    if cfg.precision == "64-true":
        return FLOAT64
    return FLOAT32[cfg.matmul] if cfg.precision == "32-true" else HALF


def recomputes(cfg: Any) -> bool:
    """Whether a section of the config has its switch for gradient checkpointing on."""
    values = [(field.name, getattr(cfg, field.name)) for field in fields(cfg)]
    return any(
        (
            recomputes(value)
            if is_dataclass(value)
            else name.endswith("checkpointing") and value is True
        )
        for name, value in values
    )


@contextmanager
def without_values() -> Iterator[None]:
    """Run a forward pass on the meta device, where tensors have shapes but no values.

    A condition on a boolean tensor is false. So `mask.all()` keeps a mask, as padded texts do, and
    no check for bad values raises. Other values raise a RuntimeError. Grouped products (of experts)
    have their shapes in every precision, where PyTorch's own know bfloat16 alone.
    """
    with torch.device("meta"), _WithoutValues():  # type: ignore[no-untyped-call]
        yield


class _WithoutValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            return False
        if func is torch.ops.aten._grouped_mm.default:
            return args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        return func(*args, **(kwargs or {}))


def forward_flops(
    forward: Callable[[ContrastiveModule, int], object], module: ContrastiveModule, batch: int
) -> float | None:
    """Floating-point operations of the products of one forward pass on the meta device.

    None where the pass needs a number that is not known without data.
    """
    try:
        with without_values(), FlopCounterMode(display=False) as counter:
            forward(module, batch)
    except RuntimeError:  # "Tensor.item() cannot be called on meta tensors"
        return None
    return float(counter.get_total_flops())
