"""Tasks: items for users of your own, vectors for an index, a raw log made ready."""

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from common.config import UserError
from common.damage import reading
from common.data.tables import Row, write_jsonl
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.export.files import output_file, write_json, write_tensors
from common.files import replacing_together
from projects.mclrec.config import Config
from projects.mclrec.data import load_sets
from projects.mclrec.interactions import History, k_core, read_log, write_inter
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.module import MCLRec
from projects.mclrec.recommender import Recommender, load_recommender

SHOWN = 10  # users of the log that are taken where no file is named
CHUNK = 512
BREAKS = {"\t", "\n", "\r"}
COLUMNS = ("user", "item", "user_id:token", "item_id:token")
# what `read_log` sorts by
TIMES = {".csv": (",", "timestamp"), ".inter": ("\t", "timestamp:float")}


def recommend(cfg: Config, workspace: Workspace, experiment: Experiment[MCLRec]) -> Path:
    """Write ranked items for the histories of a file.

    Returns:
        A JSON-lines file of ``user``, ``items`` and ``scores``; a user without a known item has
        none.

    Raises:
        UserError: no trained run, an unreadable file, or a folder as output.
    """
    task = cfg.recommend
    output = output_file(task.output, workspace.folder("."), "recommended.jsonl", [task.input])
    recommender = trained_recommender(cfg, workspace, experiment)
    rows: list[Row] = []
    histories = histories_of(cfg, workspace)
    with evaluated(recommender.encoder, cfg.trainer.accelerator):
        for user, history in workspace.progress(histories, "recommend", len(histories)):
            ranked: list[tuple[str, float]] = []
            if len(recommender.known(history)):
                known = [item for item in history if item in recommender.ids]
                ranked = recommender(known, task.k, mask_history=task.mask_history)
            items, scores = [i for i, _ in ranked], [s for _, s in ranked]
            rows.append({"user": user, "items": items, "scores": scores})
    write_jsonl(output, rows)
    for row in rows[:SHOWN]:
        workspace.say(f"{row['user']}: {', '.join(row['items'])}")
    if empty := sum(not row["items"] for row in rows):
        workspace.say(f"{empty} of {len(rows)} users have no item that training knew")
    _say_unknown(recommender, histories, workspace)
    return output


def vectors(cfg: Config, workspace: Workspace, experiment: Experiment[MCLRec]) -> Path:
    """Write user vectors and the item matrix, whose products are the scores, for a vector index.

    Returns:
        ``vectors.safetensors`` with ``users`` (U, D) and ``items`` (I, D); names alongside it.

    Raises:
        UserError: no trained run, or an unreadable file.
    """
    recommender = trained_recommender(cfg, workspace, experiment)
    histories = histories_of(cfg, workspace)
    rows = [(user, recommender.known(history)) for user, history in histories]
    rows = [(user, items) for user, items in rows if len(items)]
    if not rows:
        raise UserError("no history holds an item that training knew")
    if empty := len(histories) - len(rows):
        workspace.say(
            f"{empty} of {len(histories)} users have no item that training knew, and no vector"
        )
    _say_unknown(recommender, histories, workspace)
    with evaluated(recommender.encoder, cfg.trainer.accelerator):
        parts = [
            recommender.user_vectors([items for _, items in rows[start : start + CHUNK]]).cpu()
            for start in range(0, len(rows), CHUNK)
        ]
    named = cfg.recommend.output
    folder = Path(named).expanduser() if named else workspace.folder(".")
    tensors = {"users": torch.cat(parts), "items": recommender.item_matrix}
    path = folder / "vectors.safetensors"
    with replacing_together(path, folder / "names.json") as (matrices, names):
        write_tensors(matrices, tensors)
        write_json(names, {"users": [user for user, _ in rows], "items": recommender.items})
    return path


def prepare(cfg: Config, workspace: Workspace) -> Path:
    """Filter a raw log to its k-core and write it in RecBole's format.

    Raises:
        UserError: no file named, unreadable, several histories of one user, a name that the format
            cannot hold, an output that is no ``.inter`` file, or nothing left.
    """
    if cfg.prepare.input is None:
        raise UserError("give a log in prepare.input, such as a CSV file of user, item, timestamp")
    read = [cfg.prepare.input]
    output = output_file(cfg.prepare.output, workspace.folder("."), "log.inter", read)
    if output.suffix != ".inter":  # what it is read by
        raise UserError(f"prepare.output={output} has to end in .inter, RecBole's format")
    raw = own_log(cfg.prepare.input, workspace)
    core = k_core(raw, cfg.data.min_user, cfg.data.min_item)
    if not core:
        raise UserError("nothing is left: lower data.min_user and data.min_item")
    names = (name for user, history in core for name in (user, *history))
    if broken := next((name for name in names if {*name} & BREAKS), None):
        raise UserError(
            f"{cfg.prepare.input}: the name {broken!r} holds a tab or a line break, which .inter"
            " cannot"
        )
    items = {item for _, history in core for item in history}
    actions = sum(len(history) for _, history in core)
    removed = sum(len(history) for _, history in raw) - actions
    workspace.say(
        f"{len(core):,} users, {len(items):,} items, {actions:,} interactions: {output} (removed:"
        f" {len(raw) - len(core):,} users, {len({i for _, history in raw for i in history} - items):,}"
        f" items, {removed:,} interactions)"
    )
    return write_inter(core, output)


def trained_recommender(
    cfg: Config, workspace: Workspace, experiment: Experiment[MCLRec]
) -> Recommender:
    """What the config's run or exported folder knows.

    Raises:
        UserError: none of that name, or a run on another log than that of the config.
    """
    module, run = trained_module(experiment, workspace, cfg.recommend.run, cfg.runs_dir)
    if run is None:
        return load_recommender(cfg.recommend.run)
    items = load_sets(cfg).log.items
    check_items(module.items, item_hash(items))
    return Recommender(module.encoder.eval(), items)


def own_log(path: str, workspace: Workspace) -> list[History]:
    """As `read_log`; says where the order of the file is taken for that of the interactions.

    Raises:
        UserError: see `read_log`.
    """
    with reading(path, "log in UTF-8"):
        histories = read_log(path)
    name = path.removesuffix(".gz")
    delimiter, time = TIMES.get(Path(name).suffix, ("", ""))
    if time:
        opener = gzip.open if path.endswith(".gz") else open
        with opener(Path(path).expanduser(), "rt", encoding="utf-8-sig") as file:
            others = [
                c for c in next(csv.reader(file, delimiter=delimiter), []) if c not in COLUMNS
            ]
        if others and time not in others:
            workspace.say(
                f"{path} has no column {time}: its rows are taken in the order of the file, not"
                f" sorted by one of {', '.join(others)}"
            )
    return histories


def _say_unknown(
    recommender: Recommender, histories: Sequence[History], workspace: Workspace
) -> None:
    count = sum(len(history) for _, history in histories)
    unknown = Counter(item for _, history in histories for item in recommender.unknown(history))
    if unknown:
        names = ", ".join(item for item, _ in unknown.most_common(SHOWN))
        workspace.say(
            f"{unknown.total()} of {count} items of the histories are unknown and left out "
            f"({len(unknown)} names, most frequent first: {names})"
        )


def histories_of(cfg: Config, workspace: Workspace) -> list[History]:
    """Histories of the config's file, or those of some users of its log."""
    if cfg.recommend.input is not None:
        return own_log(cfg.recommend.input, workspace)
    log = load_sets(cfg).log
    return [
        (user, [log.items[item - 1] for item in sequence])
        for user, sequence in list(zip(log.users, log.sequences, strict=True))[:SHOWN]
    ]
