"""`make sweep`: all trials of a project's sweep, then its tables and plots."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from common.config import UserError, load, to_dict
from common.engine.progress import track
from common.engine.sweeps.results import wandb_sweep, write_results
from common.engine.sweeps.schema import arms_of, read_sweep, words_of
from common.engine.sweeps.study import ArmStudy, work
from common.engine.workspace import run_folder
from common.registry import config_class


def run_sweep(
    project: str,
    words: Sequence[str],
    arms: Sequence[str],
    jobs: int,
    trials: int | None,
    say: Callable[[str], object],
) -> tuple[Path, str]:
    """Run what is missing of a sweep.

    Args:
        project: slug.
        words: overrides of every trial.
        arms: names in compare.yaml; none: those of sweep.yaml.
        jobs: trials at the same time; the cores are divided between them.
        trials: of each arm; None: the file's.
        say: is given a line for every trial that ends.

    Returns:
        The sweep's folder, ``<runs>/<project>/<base>/sweep``; the Markdown that was written there.

    Raises:
        UserError: `trials` for a grid, whose points are its trials.
    """
    sweep = read_sweep(project, words)
    if trials and sweep.sampler == "grid":
        raise UserError(
            f"TRIALS={trials}: configs/{project}/sweep.yaml has a grid, which has as many trials as"
            " points; leave values out there, or some arms here (ARMS=a,b)"
        )
    sweep.trials = trials or sweep.trials
    quiet = (
        [] if any(w.startswith("tracking.wandb=") for w in words) else ["tracking.wandb=disabled"]
    )
    chosen = arms_of(project, sweep, arms)
    cfg = load(config_class(project), project, sweep.base, [*words, *words_of(sweep.shared)])
    runs = run_folder(cfg, project, sweep.base)
    folder = runs / "sweep"
    studies = []
    for name, overrides in chosen.items():
        typed = [*words, *quiet]
        every = [*typed, *words_of(sweep.shared), *words_of(overrides)]
        config = to_dict(load(config_class(project), project, sweep.base, every))
        studies.append(
            ArmStudy(project, sweep.of(name), name, overrides, typed, folder, runs, config)
        )
    threads = max(1, (os.cpu_count() or 1) // jobs)
    total = sum(study.target for study in studies)
    for line in track(work(studies, jobs, threads), f"sweep of {project}", total):
        say(line)
    return folder, write_results(project, sweep, studies, folder)


def write_wandb_sweep(
    project: str, words: Sequence[str], arms: Sequence[str], trials: int | None
) -> list[Path]:
    """Write the sweep as W&B sweep files, one for each arm; returns them.

    Args:
        project: slug.
        words: overrides of every trial.
        arms: as for `run_sweep`.
        trials: of each arm; None: the file's.
    """
    sweep = read_sweep(project, words)
    sweep.trials = trials or sweep.trials
    cfg = load(config_class(project), project, sweep.base, words)
    folder = run_folder(cfg, project, sweep.base) / "sweep"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, overrides in arms_of(project, sweep, arms).items():
        paths.append(folder / f"wandb-sweep{f'-{name}' if name else ''}.yaml")
        text = wandb_sweep(project, sweep.of(name), words, overrides)
        paths[-1].write_text(text, encoding="utf-8")
    return paths
