"""Settings that a task hands on to the runs which it trains, and by which it distinguishes runs."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from common.config import load, to_dict
from common.data.text.labelled.glue_tasks import GLUE
from common.engine.lifecycle.settings import leaves
from common.engine.workspace import Workspace
from projects.vega.config import Config

# what says which run it is, or what a task does with runs
_APART = ("run_id", "resume", "runs_dir", "select", "classify", "submit", "table")
# what a run's result does not hang on
_NO_MATTER = (
    "tracking",
    "trainer.accelerator",
    "trainer.num_threads",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_checkpoints",
)


def word(key: str, value: object) -> str:
    """An override of the command line; JSON is YAML.

    >>> word("model.pretrained", "runs/a b")
    'model.pretrained="runs/a b"'
    """
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def task_words(cfg: Config, workspace: Workspace, name: str) -> list[str]:
    """Overrides that make the config file the given config, for another of GLUE's tasks.

    What the user had set on the command line goes along; what the task must not have is switched
    off.
    """
    file = _of_file(workspace.project, workspace.config)
    values = _without(leaves(to_dict(cfg)), _APART)
    words = [word(k, v) for k, v in values.items() if k not in file or _plain(file[k]) != _plain(v)]
    words += [word("data.task", name), word("runs_dir", cfg.runs_dir)]
    if GLUE[name].is_regression:
        words += ["self_calibration.enabled=false", "data.noise=0.0"]
    return words


def strategy(settings: Mapping[str, Any]) -> str:
    """Eight hex digits of all settings that a result hangs on, but for task and seed."""
    kept = _without(leaves(settings), (*_APART, *_NO_MATTER, "seed", "data.task"))
    return hashlib.sha256(_plain(kept).encode()).hexdigest()[:8]


def target_of(settings: Mapping[str, Any]) -> str | None:
    """The part whose inputs a run was adapted to; None: to none."""
    transductive = settings["transductive"]
    if not transductive["enabled"] or not transductive["rounds"]:
        return None
    return str(transductive.get("part") or settings["eval"]["part"])


@cache
def _of_file(project: str, config: str) -> Mapping[str, Any]:
    return leaves(to_dict(load(Config, project, config)))


def _without(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not f"{k}.".startswith(tuple(f"{x}." for x in keys))}


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)
