"""The settings of a run that goes on: its own, but for a few that may change."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import ExperimentConfig, UserError, load, to_dict

# what neither the trained weights' meaning nor the comparison with other runs hangs on
FREE = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.num_threads",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_checkpoints",
    "tracking.*",
)
LENGTH = ("trainer.max_steps", "trainer.max_epochs")
IDENTITY = ("runs_dir", "run_id", "resume")  # they say which run, not what it does


def own_overrides(meta: Mapping[str, Any]) -> list[str]:
    """The overrides that a run was made with, without those that name it."""
    return [word for word in meta["overrides"] if word.split("=")[0] not in IDENTITY]


def resumed_config(
    schema: type[ExperimentConfig], run: Path, meta: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[ExperimentConfig, dict[str, list[Any]]]:
    """The config of a run that goes on.

    Args:
        schema: the project's.
        run: folder, for messages.
        meta: the run's meta.json.
        overrides: of the command that continues it.

    Returns:
        Config; values that changed as ``{key: [before, now]}``, all of them free to.

    Raises:
        UserError: a setting that cannot change has another value than in the run, be it from the
            command line or from a config file that was edited since.
    """
    words = [*own_overrides(meta), *overrides]
    cfg = load(schema, meta["project"], meta["config"], words)
    given = [word.split("=")[0] for word in overrides]
    changes = _changes(meta.get("resolved") or {}, resolved(cfg), given)
    fixed = {key: pair for key, pair in changes.items() if not _is_free(key)}
    if fixed:
        said = ", ".join(
            f"{key} ({_show(old)} there, {_show(new)} {'now' if _under(key, given) else 'in the config file now'})"
            for key, (old, new) in fixed.items()
        )
        raise UserError(
            f"resume={run.name} goes on with the settings of that run, so these cannot change: {said}. "
            f"Undo them, or start a new run. Free to change: {', '.join(FREE)}"
        )
    finished = sorted(p.parent.name for p in run.glob("checkpoints/*/finished.json"))
    if finished and (longer := [key for key in changes if key in LENGTH]):
        raise UserError(
            f"{run.name} has finished {', '.join(finished)}, so {', '.join(longer)} cannot change "
            "any more: start a new run"
        )
    return cfg, changes


def as_trained(
    schema: type[ExperimentConfig],
    settings: Mapping[str, Any],
    meta: Mapping[str, Any],
    overrides: Sequence[str],
) -> list[str]:
    """Overrides that undo what was edited in the config file since a run was trained.

    What is typed holds, and so does the file in what no weights hang on: `FREE`, and ``eval.*``.

    Args:
        schema: the project's.
        settings: all values of the run's config.
        meta: the run's meta.json.
        overrides: of the command that looks at it.
    """
    now = load(schema, meta["project"], meta["config"], [*own_overrides(meta), *overrides])
    given = [word.split("=")[0] for word in overrides]
    return [
        f"{key}={json.dumps(old)}"
        for key, (old, _) in _changes(settings, resolved(now), given).items()
        if not (_under(key, given) or _is_free(key) or key.startswith("eval."))
    ]


def resolved(cfg: ExperimentConfig) -> dict[str, Any]:
    """All values of a config as meta.json gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(to_dict(cfg)))
    return {key: value for key, value in plain.items() if key not in IDENTITY}


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], given: Sequence[str]
) -> dict[str, list[Any]]:
    """Keys whose value differs.

    A key that only one side knows is a field that the code gained or lost since, unless the
    command line names it.
    """
    old, new = _leaves(before), _leaves(now)
    known = [key for key in new if key in old or _under(key, given)]
    return {
        key: [old.get(key), new[key]]
        for key in known
        if before and json.dumps(old.get(key)) != json.dumps(new[key]) and key not in IDENTITY
    }


def _leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _is_free(key: str) -> bool:
    return key in FREE or any(f[-2:] == ".*" and key.startswith(f[:-1]) for f in FREE)


def _under(key: str, given: Sequence[str]) -> bool:
    return any(key == word or key.startswith(f"{word}.") for word in given)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
