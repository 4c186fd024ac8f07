"""One arm with one seed, or one baseline: its name and command, and what it left behind."""

import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common.config import ExperimentConfig, UserError, load, nearest, to_yaml
from common.engine import workspace as ws
from common.engine.comparison.processes import COMMAND, LOG, RunProcess, is_held, start_process
from common.engine.comparison.schema import Comparison
from common.engine.lifecycle.find import finished_stages
from common.engine.provenance import code_state
from common.registry import config_class

BASELINES = "baselines"  # module of a project whose functions `baselines:` names
STARTED = f"{datetime.datetime.now():%Y%m%d_%H%M%S}"  # of this command


@cache
def present_code() -> str:
    """The code in the name of a run, read once until `present_code.cache_clear`.

    The commit, where the tree is clean. With local changes, or without git, the time of this
    command is added, so that no other command reuses the run. No hyphen: `make prune` compares
    names without their last part.
    """
    code = code_state()
    commit = (code["commit"] or "unknown")[:12]
    return commit if code["commit"] and not code["dirty"] else f"{commit}_changed_{STARTED}"


class PlannedRun:
    """An arm with a seed, or a baseline, of a comparison.

    Args:
        project: slug.
        spec: the comparison.
        name: of an arm or baseline.
        seed: the run's.
        overrides: of every run, from the command line.

    Raises:
        UserError: the config with the arm's overrides doesn't load, or an override is of a setting
            that compare.yaml sets.
    """

    def __init__(
        self, project: str, spec: Comparison, name: str, seed: int, overrides: Sequence[str] = ()
    ) -> None:
        self.project, self.base, self.arm, self.seed = project, spec.base, name, seed
        self.spec, self.common_overrides = spec, tuple(overrides)
        self.is_baseline = name in spec.baselines
        settings = spec.shared if self.is_baseline else spec.arms[name]
        refuse_ignored(overrides, [*settings, "seed"], f"compare.yaml sets it for '{name}'")
        words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        self.overrides = [*overrides, *words, f"seed={seed}"]
        cfg = self.config()
        self.config_hash = self._config_hash(cfg)
        self.folder = ws.run_folder(cfg, project, spec.base)
        self.quiet = cfg.tracking.wandb == "auto"
        self.tags = [*cfg.tracking.tags, f"arm:{name}"]
        self.group = cfg.tracking.group or f"{project}-{spec.base}-{spec.name}"
        self.code = present_code()
        self.run_id = f"{self.stem}-{self.code}"
        self.path = self.folder / self.run_id

    def config(self) -> ExperimentConfig:
        """Its config."""
        return load(config_class(self.project), self.project, self.base, self.overrides)

    def _config_hash(self, cfg: ExperimentConfig | None = None) -> str:
        return hashlib.sha256(to_yaml(cfg or self.config()).encode()).hexdigest()[:8]

    @property
    def stem(self) -> str:
        """Run id without the code."""
        what = f"baseline-{self.arm}" if self.is_baseline else self.arm
        return f"compare-{what}-seed{self.seed}-{self.config_hash}"

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").exists()

    def with_seed(self, seed: int) -> "PlannedRun":
        """The same arm with another seed."""
        return PlannedRun(self.project, self.spec, self.arm, seed, self.common_overrides)

    def command(self) -> list[str]:
        """Words of its process."""
        verb = "eval" if self.is_baseline else "train"
        words = [*COMMAND, verb, self.project, self.base, *self.overrides, f"run_id={self.run_id}"]
        # `make runs WHERE=arm=...` reads the tags, whether or not the run is tracked
        words.append(f"tracking.tags={json.dumps(self.tags)}")
        words.append(f"tracking.group={json.dumps(self.group)}")
        if self.quiet:
            words.append("tracking.wandb=disabled")
        if self.is_baseline:
            return [*words, "--baseline", self.arm]
        if (self.path / "meta.json").exists():
            words.append(f"resume={self.run_id}")
        return words

    def start(self, threads: int) -> RunProcess | None:
        """Start its process with that many threads; None while another process works on it.

        Raises:
            UserError: code or config is no longer the one in its name.
        """
        if is_held(self.path):  # asked often; code and config are read once it is free
            return None
        self.check_unchanged()
        return start_process(self.path, self.command(), threads)

    def check_unchanged(self) -> None:
        """Refuse code or a config that is no longer the one in its name."""
        present_code.cache_clear()
        if present_code() != self.code:
            raise UserError("the code has changed since the comparison began; start it again")
        if self._config_hash() != self.config_hash:
            raise UserError("the config has changed since the comparison began; start it again")

    def metrics(self) -> dict[str, float]:
        """Its metrics.json."""
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]

    def meta(self) -> dict[str, Any]:
        """Its meta.json."""
        return ws.read_json(self.path / "meta.json")  # type: ignore[no-any-return]

    def stage_steps(self) -> dict[str, int]:
        """Steps of its finished stages, in the order in which they ended.

        No stage of another run's weights.
        """
        ended = finished_stages(self.path / "checkpoints")
        saved = {stage.name: sorted(stage.glob("step-*.ckpt")) for stage in ended}
        return {s: int(p[-1].stem.removeprefix("step-")) for s, p in saved.items() if p}

    def items(self, metric: str) -> list[Any] | None:
        """Its items, see `saved_items`."""
        return saved_items(self.path, metric)


def saved_items(run: Path, metric: str) -> list[Any] | None:
    """Items per test set: values, or predictions with gold values; None if the run saved none."""
    path = run / "items" / f"{metric}.json"
    if not path.exists():
        return None
    saved = ws.read_json(path)
    if not isinstance(saved, dict) or "mean_of" not in saved:
        return [saved]
    sets: list[Any] = []
    for name in saved["mean_of"]:
        part = saved_items(run, name)
        if part is None:
            return None
        sets += part
    return sets


def refuse_ignored(overrides: Sequence[str], taken: Iterable[str], why: str) -> None:
    """Refuse overrides that a later word would replace.

    Args:
        overrides: from the command line.
        taken: settings that are set after them.
        why: ends the message.

    Raises:
        UserError: names the first of them.
    """
    names = set(taken)
    for word in overrides:
        if word.split("=", 1)[0] in names:
            raise UserError(f"'{word}' would change nothing: {why}")


def metric_of(folder: Path, metric: str) -> float:
    """One of a run's metrics.

    Raises:
        UserError: it has no such metric, or it is undefined there.
    """
    metrics: dict[str, float | None] = ws.read_json(folder / "metrics.json")
    if metric not in metrics:
        raise UserError(f"{folder.name}: no metric '{metric}'{nearest(metric, metrics)}")
    value = metrics[metric]
    if value is None:  # not a number, or infinite
        raise UserError(f"{folder.name}: '{metric}' is undefined; see {folder / LOG}")
    return value
