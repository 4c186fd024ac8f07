"""The settings of a resumed run: those it was started with, except for a few that may change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from common.config import ExperimentConfig, UserError, load, to_dict

# neither the meaning of the weights nor a comparison with other runs depends on these; another
# number of processes shares out the same global batch, see `batch_of_processes`
FREE = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.num_threads",
    "trainer.stall_seconds",
    "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_steps",
    "trainer.keep_checkpoints",
    "trainer.shard_checkpoints",
    "tracking.*",
)
LENGTH = ("trainer.max_steps", "trainer.max_epochs")
IDENTITY = ("runs_dir", "run_id", "resume")  # they say which run, not what it does


def own_overrides(meta: Mapping[str, Any]) -> list[str]:
    """The overrides that a run was started with, without its name and folder."""
    return [word for word in meta["overrides"] if word.split("=")[0] not in IDENTITY]


def resumed_config(
    schema: type[ExperimentConfig],
    run: Path,
    meta: Mapping[str, Any],
    overrides: Sequence[str],
    free: Sequence[str] = (),
) -> tuple[ExperimentConfig, dict[str, list[Any]]]:
    """The config of a resumed run.

    Args:
        schema: the project's.
        run: folder, for messages.
        meta: the run's meta.json.
        overrides: of the command that resumes it.
        free: settings that may change in addition to `FREE`.

    Returns:
        Config; values that changed as ``{key: [before, now]}``, all of them free to.

    Raises:
        UserError: a setting that cannot change has another value than in the run, be it from the
            command line or from a config file that was edited since.
    """
    words = [*own_overrides(meta), *overrides]
    cfg = load(schema, meta["project"], meta["config"], words)
    typed = [word.split("=")[0] for word in overrides]
    changes = _changes(meta.get("resolved") or {}, cfg, typed)
    fixed = {key: pair for key, pair in changes.items() if not _is_free(key) and key not in free}
    if fixed:
        listed = ", ".join(
            f"{key} ({_show(old)} there, {_show(new)}"
            f" {'now' if _under(key, typed) else 'in the config file now'})"
            for key, (old, new) in fixed.items()
        )
        raise UserError(
            f"resume={run.name} continues with the settings of that run, so these cannot change:"
            f" {listed}. Undo them, or start a new run. Free to change: {', '.join(FREE)}"
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

    What is typed holds, and so does the file for what no weights depend on: `FREE` and ``eval.*``.

    Args:
        schema: the project's.
        settings: all values of the run's config.
        meta: the run's meta.json.
        overrides: of the command that looks at it.

    Raises:
        UserError: the file has got an entry of a mapping since, which no override takes away.
    """
    now = load(schema, meta["project"], meta["config"], [*own_overrides(meta), *overrides])
    typed = [word.split("=")[0] for word in overrides]
    undone = {
        key: old
        for key, (old, _) in _changes(settings, now, typed).items()
        if not (_under(key, typed) or _is_free(key) or key.startswith("eval."))
    }
    if added := sorted(_entries(settings, now)[1].keys() & undone.keys()):
        raise UserError(
            f"the config file has got {', '.join(added)} since the run was trained: take it out to"
            " look at this run"
        )
    return [f"{key}={json.dumps(old)}" for key, old in undone.items()]


def batch_of_processes(name: str, meta: Mapping[str, Any], processes: int) -> int:
    """``data.batch_size`` with which another number of processes has the same global batch.

    Its place in the data is counted in global batches, and a loss's negatives come from them.

    Args:
        name: of the run.
        meta: its meta.json.
        processes: devices times nodes of this command.

    Raises:
        UserError: the global batch cannot be divided among them.
    """
    batch = int(meta["resolved"]["data"]["batch_size"]) * int(meta["world_size"])
    if batch % processes:
        near = [n for n in range(1, batch + 1) if batch % n == 0]
        fewer = max(n for n in near if n < processes)
        more = min((n for n in near if n > processes), default=None)
        raise UserError(
            f"{name} has {batch} samples in a batch of all processes, which {processes} processes"
            f" (trainer.devices x trainer.num_nodes) cannot share equally: take {fewer}"
            f"{'' if more is None else f' or {more}'}"
        )
    return batch // processes


def check_shared(
    name: str, meta: Mapping[str, Any], processes: int, *, equal: bool, streaming: bool
) -> None:
    """Refuse to resume a stage with another number of processes where its batches would change.

    Args:
        name: of the run and its stage, for the message.
        meta: the run's meta.json, from before.
        processes: of this command.
        equal: whether the stage's global batch is as large as before.
        streaming: whether it reads shards, which each process draws for itself.

    Raises:
        UserError: its data or its batches would be other ones.
    """
    before = meta.get("world_size", processes)
    if before == processes or (equal and not streaming):
        return
    why = (
        "each process reads shards of its own"
        if streaming
        else "its batch size is not data.batch_size"
    )
    raise UserError(
        f"{name} has {before} processes (trainer.devices x trainer.num_nodes) and this command"
        f" {processes}: {why}, so the batches would change; take {before}"
    )


def resolved(cfg: ExperimentConfig) -> dict[str, Any]:
    """All values of a config, as they are read from meta.json."""
    plain: dict[str, Any] = json.loads(json.dumps(to_dict(cfg)))
    return {key: value for key, value in plain.items() if key not in IDENTITY}


def _changes(
    before: Mapping[str, Any], cfg: ExperimentConfig, typed: Sequence[str]
) -> dict[str, list[Any]]:
    """Keys whose value differs, entries of mappings that were added or taken out among them.

    A field that only one side knows is one that the code gained or lost since, unless the command
    line names it.
    """
    now = resolved(cfg)
    old, new = leaves(before), leaves(now)
    comparable = [key for key in new if key in old or _under(key, typed)]
    pairs = {key: [old.get(key), new[key]] for key in comparable}
    pairs |= {key: pair for pair_of in _entries(before, cfg) for key, pair in pair_of.items()}
    return {
        key: pair
        for key, pair in pairs.items()
        if before and json.dumps(pair[0]) != json.dumps(pair[1]) and key not in IDENTITY
    }


def _entries(
    before: Mapping[str, Any], cfg: ExperimentConfig
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Entries of mappings that were taken out and that were added, as ``{key: [before, now]}``."""
    now = resolved(cfg)
    out: dict[str, list[Any]] = {}
    added: dict[str, list[Any]] = {}
    for path in _mappings(cfg):
        old, new = _at(before, path), _at(now, path)
        if isinstance(old, dict) and isinstance(new, dict):  # else the code gained the field
            name = ".".join(path)
            out |= {f"{name}.{entry}": [old[entry], None] for entry in old.keys() - new.keys()}
            added |= {f"{name}.{entry}": [None, new[entry]] for entry in new.keys() - old.keys()}
    return out, added


def _mappings(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a config has mappings, whose entries are settings and no fields of the code."""
    if isinstance(node, dict):
        yield path
        for key, value in node.items():
            yield from _mappings(value, (*path, str(key)))
    elif is_dataclass(node):
        for field in fields(node):
            yield from _mappings(getattr(node, field.name), (*path, field.name))


def _at(node: Any, path: Sequence[str]) -> Any:
    """The value at a path; None where there is none."""
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested settings by their whole keys; an empty mapping is a value.

    >>> leaves({"optim": {"lr": 0.1}, "model": {"config": {}}})
    {'optim.lr': 0.1, 'model.config': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_free(key: str) -> bool:
    return key in FREE or any(f[-2:] == ".*" and key.startswith(f[:-1]) for f in FREE)


def _under(key: str, sections: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in sections)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
