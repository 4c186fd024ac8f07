"""After a study: cost of a step, the ranking at equal time, and sensitivity to the batch size."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from arena.contestant import FAMILIES, Contestant, read_contestants
from arena.study import COPIED, SEARCH_SEED, SEEDS, Trial, run, trial
from common.config import UserError, load
from common.engine.callbacks import seed_all, step_seed
from common.engine.provenance import code_state
from common.registry import config_class, load_project

ROUNDS = 24  # steps of every contestant that are timed
ALIKE = 0.05  # relative difference in cost below which equal steps are equal time


def further(
    result: Mapping[str, Any], *, jobs: int = 1, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Three tables next to the one of a study, at the settings that its search has chosen.

    ``cost``: seconds of the processor for a step, relative to `COPIED`. ``equal_time``: fresh seeds
    with as many steps as `COPIED` makes in the same time. ``batches``: score on the development
    part by batch size, at equal numbers of samples and an unchanged rate.

    Args:
        result: of `study`.
        jobs: runs at the same time.
        overrides: of every run.

    Raises:
        UserError: the study has no `COPIED`, which costs are relative to.
    """
    family, scale = result["family"], result["scale"]
    rows = result["contestants"]
    if COPIED not in rows:
        raise UserError(f"costs are relative to {COPIED}, which this study does not have")
    ranked = {
        one.name: (one, _chosen(one, rows[one.name]))
        for one in read_contestants(family=family)
        if one.name in rows and one.role != "control"
    }
    cfg = load(config_class(f"arena_{family}"), f"arena_{family}", scale, overrides)
    steps, batch = cfg.trainer.max_steps, cfg.data.batch_size
    if steps is None:
        raise UserError(f"arena_{family}/{scale} counts epochs: this needs trainer.max_steps")

    def runs(name: str, settings: Mapping[str, Any]) -> Trial:
        one, chosen = ranked[name]
        return trial(family, scale, one, {**chosen, **settings}, overrides)

    cost = step_costs({name: runs(name, {"seed": SEEDS[0]}) for name in ranked})
    equal: dict[str, list[Trial]] = {}
    lengths = dict.fromkeys(ranked, steps)
    for name, relative in cost.items():
        if abs(relative - 1) > ALIKE:
            length = _length(steps / relative)
            lengths[name] = length["trainer.max_steps"]
            equal[name] = [runs(name, {**length, "seed": seed}) for seed in SEEDS]
    judgement = FAMILIES[family].judgement(scale)
    shared = {"seed": SEARCH_SEED, **judgement.development}
    sizes = {
        name: {
            size: runs(name, {**shared, "data.batch_size": size, **_length(steps * batch / size)})
            for size in (batch // 4, batch, 4 * batch)
        }
        for name, (one, _) in ranked.items()
        if one.loss
    }
    run([one for trials in equal.values() for one in trials], jobs, "equal time")
    run([one for by_size in sizes.values() for one in by_size.values()], jobs, "batch sizes")
    scores = {
        name: [one.metrics()[judgement.metric] for one in equal[name]]
        if name in equal
        else rows[name]["metrics"][judgement.metric]["values"]
        for name in ranked
    }
    return {
        "family": family,
        "commit": code_state()["commit"],
        "cost": cost,
        "equal_time": {
            name: {
                "steps": lengths[name],
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)),
            }
            for name, values in scores.items()
        },
        "batches": {
            name: {str(size): one.metrics()[judgement.chosen_by] for size, one in by_size.items()}
            for name, by_size in sizes.items()
        },
    }


def _length(steps: float) -> dict[str, int]:
    whole = max(1, round(steps))
    return {"trainer.max_steps": whole, "trainer.checkpoint_every_n_steps": whole}


def _chosen(one: Contestant, row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the search has chosen."""
    return {"optim.lr": row["rate"], **one.settings_at(row["setting"][one.searched])}


def step_costs(trials: Mapping[str, Trial], rounds: int = ROUNDS) -> dict[str, float]:
    """Processor seconds of a training step with its data, relative to those of `COPIED`.

    Contestants take turns, so that other work on the machine slows all of them; the median of the
    ratios of a round counts.
    """
    loops = {name: _Loop(one) for name, one in trials.items()}
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds + 3):  # the first ones warm up
        seconds = {name: loop.step(number) for name, loop in loops.items()}
        if number >= 3:
            for name, value in seconds.items():
                ratios[name].append(value / seconds[COPIED])
    return {name: statistics.median(values) for name, values in ratios.items()}


class _Loop:
    """A plain training loop of a run's first stage."""

    def __init__(self, one: Trial) -> None:
        cfg = load(config_class(one.project), one.project, one.config, one.words)
        seed_all(step_seed(cfg.seed, 0, 0, 0))
        experiment = load_project(one.project).build(cfg)
        stage = next(experiment.stages())
        self.module, self.data = stage.module, stage.data.train_set
        self.module.train()
        self.size = stage.data.batch_size
        groups = self.module.parameter_groups()
        self.optimizer = torch.optim.AdamW(groups, lr=cfg.optim.lr)

    def step(self, number: int) -> float:
        """Processor seconds of a step."""
        begun = time.process_time()
        rows = range(number * self.size, (number + 1) * self.size)
        batch = self.data[[(i % len(self.data), 0) for i in rows]]
        self.optimizer.zero_grad()
        self.module.losses(batch)["loss"].backward()
        self.optimizer.step()
        self.module.after_optimizer_step()
        return time.process_time() - begun
