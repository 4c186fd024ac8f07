"""`make check-all`: the cost of every paper config, as reports/cost.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common.config import ROOT, UserError, config_names
from common.engine.check import DEVICE_BYTES, GIB, count_steps, device_memory
from common.engine.node import (
    BACKWARD,
    FLOAT32,
    HALF,
    RECOMPUTED,
    UTILISATION,
    peak,
    recomputes,
    step_flops,
)
from common.engine.run import prepare
from common.engine.trainer import world_size
from common.files import write_text
from common.registry import list_projects

PAGE = ROOT / "reports" / "cost.md"
HEAD = f"""# Cost of the papers

`make check-all` builds every `paper*` config on the meta device; nothing is trained or downloaded.

- **FLOPs per step** are those of one optimiser step on all devices: {BACKWARD:.0f} times the products of
  a forward pass, or {RECOMPUTED:.0f} times where the config recomputes blocks in the backward pass.
  Frozen towers count like trained ones, so recipes with frozen towers cost less. The cell is empty
  where no forward pass can be counted (sparse convolutions).
- **hours** on one H100 at {UTILISATION:.0%} of its peak in the config's precision ({HALF / 1e12:.0f} TFLOP/s
  in 16 bits; in 32, {FLOAT32["high"] / 1e12:.0f} with `trainer.matmul=high`, which is the default, and
  {FLOAT32["highest"] / 1e12:.0f} with `highest`), without data loading and evaluation: a lower bound, not
  a measurement.
- **GiB** of one device with DDP and, on several devices, with FSDP: weights, gradients, optimiser state
  and activations. It is an upper estimate. Memory in bold is more than {DEVICE_BYTES / 1e9:.0f} GB, with the config's
  strategy. `make check-all` fails then, and for a config without a figure.
- **steps** depend on the data where a config counts epochs of data that are not here.
- **needs** lists weights and data sets. `make check PROJECT= CONFIG=` reports where to get them.
- A config that cannot be built is *not known*, with the reason.
"""


@dataclass(frozen=True)
class Cost:
    """Cost of one config.

    Attributes:
        project: slug.
        config: name.
        parameters: of the module, and of them trained ones.
        flops: of one optimiser step over all devices; None if no forward pass can be counted.
        steps: optimiser steps.
        peak: FLOP/s of an H100 in the precision of the config.
        devices: processes.
        negatives: per query.
        memory: bytes of one device with DDP; None without a forward pass.
        sharded: bytes of one device with FSDP; None on one device or without a forward pass.
        needs: names of the weights and data sets.
        strategy: of the config.
        reason: why `memory` is None.
    """

    project: str
    config: str
    parameters: tuple[int, int]
    flops: float | None
    steps: int
    peak: float
    devices: int
    negatives: int
    memory: float | None
    sharded: float | None
    needs: tuple[str, ...]
    strategy: str = "auto"
    reason: str = ""

    @property
    def used(self) -> float:
        """Bytes of one device with the strategy of the config; 0 where they are not known."""
        used = self.sharded if self.strategy == "fsdp" and self.sharded else self.memory
        return used or 0.0

    @property
    def fits(self) -> bool:
        """Whether a device of `DEVICE_BYTES` holds it, as far as its memory can be counted."""
        return self.used <= DEVICE_BYTES

    @property
    def hours(self) -> float | None:
        """On one H100 at `UTILISATION`."""
        if self.flops is None or not self.steps:
            return None
        return self.flops * self.steps / (self.peak * UTILISATION) / 3600


@dataclass(frozen=True)
class Unknown:
    """A config that cannot be built, and why."""

    project: str
    config: str
    reason: str


def measure(project: str, config: str, overrides: Sequence[str] = ()) -> Cost:
    """Build a config on the meta device.

    Raises:
        UserError: it cannot be built.
    """
    cfg, experiment = prepare(project, config, overrides)
    plan = experiment.plan()
    with torch.device("meta"):
        module = plan.module()
    ranks, batch = world_size(cfg.trainer), cfg.data.batch_size
    memory, sharded = None, None
    again = recomputes(cfg)
    device = device_memory(plan, module, batch, ranks, cfg)
    if device.saved is not None:
        shrinks = again and device.saved.largest_block
        activations = device.saved.recomputed if shrinks else device.saved.total
        memory = device.share(1) + activations
        sharded = device.share(ranks) + activations if ranks > 1 else None
    return Cost(
        project,
        config,
        (
            sum(p.numel() for p in module.parameters()),
            sum(p.numel() for p in module.parameters() if p.requires_grad),
        ),
        step_flops(cfg, plan, module),
        count_steps(cfg, plan.num_samples),
        peak(cfg.trainer),
        ranks,
        module.negatives_per_query(batch * ranks),
        memory,
        sharded,
        tuple(need.name for need in plan.requirements),
        cfg.trainer.strategy,
        "" if memory is not None else device.reason or "its plan has no forward pass",
    )


def paper_configs(project: str) -> list[str]:
    """Names of the project's paper configs."""
    return [name for name in config_names(project) if name.startswith("paper")]


def all_costs(projects: Sequence[str] | None = None) -> Iterator[Cost | Unknown]:
    """Cost of every paper config, or why it is not known."""
    for project in projects if projects is not None else list_projects():
        for config in paper_configs(project):
            try:
                yield measure(project, config)
            except UserError as error:
                yield Unknown(project, config, str(error))


def problems(costs: Sequence[Cost | Unknown]) -> list[str]:
    """A sentence for each config that no device holds, that has no figure, or that is not built."""
    lines = []
    for cost in costs:
        name = f"{cost.project}/{cost.config}"
        if isinstance(cost, Unknown):
            lines.append(f"{name} cannot be built: {cost.reason}")
        elif cost.memory is None:
            lines.append(f"{name} has no memory figure: {cost.reason}")
        elif not cost.fits:
            lines.append(
                f"{name} needs {cost.used / 1e9:.0f} GB of a device's {DEVICE_BYTES / 1e9:.0f} GB"
            )
    return lines


def page(costs: Sequence[Cost | Unknown]) -> str:
    """The content of reports/cost.md: a table per project."""
    lines = [HEAD]
    for project in dict.fromkeys(cost.project for cost in costs):
        lines += [
            f"## {project}",
            "",
            (
                "| config | parameters (trained), M | FLOPs per step | steps | devices | negatives |"
                " GiB, DDP / FSDP | hours | needs |"
            ),
            "|---|--:|--:|--:|--:|--:|--:|--:|---|",
        ]
        lines += [_row(cost) for cost in costs if cost.project == project]
        lines.append("")
    return "\n".join(lines)


def write_costs(costs: Sequence[Cost | Unknown], path: Path = PAGE) -> Path:
    """Write the page."""
    write_text(path, page(costs))
    return path


def _row(cost: Cost | Unknown) -> str:
    if isinstance(cost, Unknown):
        return f"| {cost.config} | | | | | | | | not known: {cost.reason.replace('|', ' ')} |"
    every, trained = (n / 1e6 for n in cost.parameters)
    memory = "" if cost.memory is None else f"{cost.memory / GIB:.1f}"
    memory += "" if cost.sharded is None else f" / {cost.sharded / GIB:.1f}"
    memory = memory if cost.fits else f"**{memory}**"
    shown = ", ".join(_shortened(cost.needs))
    cells = [
        cost.config,
        f"{every:,.1f} ({trained:,.1f})",
        "" if cost.flops is None else f"{cost.flops:.1e}",
        f"{cost.steps:,}" if cost.steps else "by the data",
        str(cost.devices),
        f"{cost.negatives:,}",
        memory,
        "" if cost.hours is None else f"{cost.hours:,.1f}",
        shown,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shortened(needs: Sequence[str], most: int = 4) -> list[str]:
    """The first names, and how many more."""
    left = len(needs) - most
    return [*needs[:most], *([f"{left} more"] if left > 0 else [])]
