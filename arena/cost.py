"""Cost of a training step: processor time, floating-point operations, memory."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from arena.contestant import read_contestants
from arena.study import COPIED, SEEDS, Trial, trial
from common.config import UserError, load
from common.engine.callbacks import seed_all, step_seed
from common.engine.provenance import code_state
from common.registry import config_class, load_project

ROUNDS, WARM_UP = 24, 3  # steps of every contestant that are timed, and before them
MIB, GIGA = 2**20, 1e9

Costs = dict[str, dict[str, float]]


def cost(
    result: Mapping[str, Any], overrides: Sequence[str] = (), rounds: int = ROUNDS
) -> dict[str, Any]:
    """Costs of the contestants of a study, at the settings that its search has chosen.

    Args:
        result: of `study`.
        overrides: of every run.
        rounds: steps of every contestant that are timed.

    Raises:
        UserError: the study has no `COPIED`, which times are relative to.
    """
    rows = result["contestants"]
    if COPIED not in rows:
        raise UserError(f"costs are relative to {COPIED}, which this study does not have")
    trials = {}
    for one in read_contestants(family=result["family"]):
        if one.role == "control" or one.name not in rows:
            continue
        row = rows[one.name]
        settings = {**one.at(row["rate"], row["setting"][one.searched]), "seed": SEEDS[0]}
        trials[one.name] = trial(result["family"], result["scale"], one, settings, overrides)
    return {
        "family": result["family"],
        "scale": result["scale"],
        "commit": code_state()["commit"],
        "steps": step_costs(trials, rounds),
    }


def step_costs(trials: Mapping[str, Trial], rounds: int) -> Costs:
    """Costs of a step by contestant.

    ``time``: processor seconds with the loading of its batch, relative to those of `COPIED`.
    Contestants take turns, so that other work on the machine slows all of them; the median of the
    ratios of a round counts. ``gflop``: operations of the products of forward and backward pass.
    ``memory_mib``: weights, buffers, gradients, optimiser states, and what autograd keeps for the
    backward pass.
    """
    loops = {name: _Loop(one) for name, one in trials.items()}
    costs = {
        name: {"gflop": loop.operations() / GIGA, "memory_mib": loop.memory() / MIB}
        for name, loop in loops.items()
    }
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + WARM_UP):
        seconds = {name: loop.seconds() for name, loop in loops.items()}
        if number >= WARM_UP:
            for name, value in seconds.items():
                ratios[name].append(value / seconds[COPIED])
    return {name: {"time": statistics.median(ratios[name]), **row} for name, row in costs.items()}


class _Loop:
    """A plain training loop of a run's first stage."""

    def __init__(self, one: Trial) -> None:
        cfg = load(config_class(one.project), one.project, one.config, one.words)
        seed_all(step_seed(cfg.seed, 0, 0, 0))
        stage = next(load_project(one.project).build(cfg).stages())
        self.module, self.data = stage.module, stage.data.train_set
        self.module.train()
        self.batch_size, self.number = stage.data.batch_size, 0
        groups = self.module.parameter_groups()
        self.optimizer = torch.optim.AdamW(groups, lr=cfg.optim.lr)

    def step(self) -> None:
        """Load a batch, train on it."""
        self._loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.module.after_optimizer_step()

    def seconds(self) -> float:
        """Processor seconds of a step."""
        started = time.process_time()
        self.step()
        return time.process_time() - started

    def operations(self) -> float:
        """Floating-point operations of the products of a step."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return float(counter.get_total_flops())

    def memory(self) -> int:
        """Bytes that are held when a backward pass begins; a step has been made before."""
        state = [*self.module.parameters(), *self.module.buffers()]
        state += [p.grad for p in self.module.parameters() if p.grad is not None]
        state += [
            value
            for values in self.optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        kept: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor)
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self._loss()
        total = _storage_bytes([*state, *kept])
        loss.backward()  # type: ignore[no-untyped-call]
        return total

    def _loss(self) -> Tensor:
        rows = range(self.number * self.batch_size, (self.number + 1) * self.batch_size)
        self.number += 1
        batch = self.data[[(i % len(self.data), 0) for i in rows]]
        self.optimizer.zero_grad(set_to_none=False)
        loss: Tensor = self.module.losses(batch)["loss"]
        return loss


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages of tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())
