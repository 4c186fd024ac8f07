"""After a study: the ranking at equal time, and sensitivity to the batch size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arena.contestant import FAMILIES, read_contestants
from arena.cost import Costs
from arena.study import SEARCH_SEED, SEEDS, Trial, run, trial
from common.config import UserError, load
from common.engine.check import count_steps
from common.engine.provenance import code_state
from common.registry import config_class, load_project

ALIKE = 0.05  # relative difference in cost below which equal steps are equal time


def further(
    result: Mapping[str, Any], costs: Costs, *, jobs: int = 1, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Two tables next to the one of a study, at the settings that its search has chosen.

    ``equal_time``: fresh seeds with as many steps as `arena.study.COPIED` makes in the same time.
    ``batches``: score on the development part by batch size, at equal numbers of samples and an
    unchanged rate; losses alone, since the queue or the groups of a method depend on the batch.

    Args:
        result: of `study`.
        costs: of `step_costs`.
        jobs: runs at the same time.
        overrides: of every run.

    Raises:
        UserError: the config counts epochs of data that are not here.
    """
    family, scale, rows = result["family"], result["scale"], result["contestants"]
    contestants = {one.name: one for one in read_contestants(family=family) if one.name in costs}
    cfg = load(config_class(f"arena_{family}"), f"arena_{family}", scale, overrides)
    steps, batch = _steps(f"arena_{family}", scale, cfg), cfg.data.batch_size

    def of_length(wanted: float) -> dict[str, int | None]:
        whole = max(1, round(wanted))
        length: dict[str, int | None] = {"trainer.max_steps": whole}
        if cfg.trainer.max_epochs is not None:
            return {"trainer.max_epochs": None, **length}
        return {**length, "trainer.checkpoint_every_n_steps": whole}

    def run_of(name: str, settings: Mapping[str, Any]) -> Trial:
        one, row = contestants[name], rows[name]
        chosen = one.at(row["rate"], row["setting"][one.searched])
        return trial(family, scale, one, {**chosen, **settings}, overrides)

    lengths = {
        name: steps / row["time"] if abs(row["time"] - 1) > ALIKE else steps
        for name, row in costs.items()
    }
    equal = {
        name: [run_of(name, {**of_length(length), "seed": seed}) for seed in SEEDS]
        for name, length in lengths.items()
        if length != steps
    }
    judgement = FAMILIES[family].judgement(scale)
    shared = {"seed": SEARCH_SEED, **judgement.development}
    sizes = {
        name: {
            size: run_of(
                name, {**shared, "data.batch_size": size, **of_length(steps * batch / size)}
            )
            for size in (batch // 4, batch, 4 * batch)
        }
        for name, one in contestants.items()
        if one.loss
    }
    run([one for trials in equal.values() for one in trials], jobs, "equal time")
    run([one for by_size in sizes.values() for one in by_size.values()], jobs, "batch sizes")
    scores = {
        name: [one.metrics()[judgement.metric] for one in equal[name]]
        if name in equal
        else rows[name]["metrics"][judgement.metric]["values"]
        for name in costs
    }
    return {
        "family": family,
        "commit": code_state()["commit"],
        "equal_time": {
            name: {
                "steps": max(1, round(lengths[name])),
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


def _steps(project: str, scale: str, cfg: Any) -> int:
    """Optimiser steps of a run, also of a config in epochs."""
    steps = cfg.trainer.max_steps
    if steps is None:
        plan = load_project(project).build(cfg).plan()
        steps = count_steps(cfg, plan.num_samples)
    if not steps:
        raise UserError(f"{project}/{scale} counts epochs of data that are not here")
    return int(steps)
