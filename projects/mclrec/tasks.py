"""Tasks: items for users of your own, vectors for an index, a raw log made ready."""

from pathlib import Path

import torch

from common.config import UserError
from common.data.recommendation.interactions import History, k_core, read_log, write_inter
from common.data.tables import Row, write_jsonl
from common.engine.experiment import Experiment
from common.engine.run import trained_module
from common.engine.workspace import Workspace
from common.export.files import write_json, write_tensors
from common.export.recommender import Recommender, load_recommender
from projects.mclrec.config import Config
from projects.mclrec.data import load_sets
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.module import MCLRec

SHOWN = 10  # users of the log that are taken where no file is named
CHUNK = 512


def recommend(cfg: Config, workspace: Workspace, experiment: Experiment[MCLRec]) -> Path:
    """Write ranked items for the histories of a file.

    Returns:
        A JSON-lines file of ``user``, ``items`` and ``scores``; a user without a known item has none.

    Raises:
        UserError: no trained run, or an unreadable file.
    """
    own = cfg.recommend
    recommender = trained_recommender(cfg, workspace, experiment)
    rows: list[Row] = []
    for user, history in histories_of(cfg):
        found: list[tuple[str, float]] = []
        if len(recommender.known(history)):
            found = recommender(history, own.k, mask_history=own.mask_history)
        rows.append({"user": user, "items": [i for i, _ in found], "scores": [s for _, s in found]})
    output = Path(own.output) if own.output else workspace.folder(".") / "recommended.jsonl"
    write_jsonl(output, rows)
    for row in rows[:SHOWN]:
        workspace.say(f"{row['user']}: {', '.join(row['items'])}")
    if empty := sum(not row["items"] for row in rows):
        workspace.say(f"{empty} of {len(rows)} users have no item that training knew")
    return output


def vectors(cfg: Config, workspace: Workspace, experiment: Experiment[MCLRec]) -> Path:
    """Write user vectors and the item matrix, whose products are the scores, for a vector index.

    Returns:
        ``vectors.safetensors`` with ``users`` (U, D) and ``items`` (I, D); names beside it.

    Raises:
        UserError: no trained run, or an unreadable file.
    """
    recommender = trained_recommender(cfg, workspace, experiment)
    rows = [(user, recommender.known(history)) for user, history in histories_of(cfg)]
    rows = [(user, known) for user, known in rows if len(known)]
    if not rows:
        raise UserError("no history holds an item that training knew")
    parts = [
        recommender.user_vectors([known for _, known in rows[start : start + CHUNK]])
        for start in range(0, len(rows), CHUNK)
    ]
    folder = Path(cfg.recommend.output) if cfg.recommend.output else workspace.folder(".")
    tensors = {"users": torch.cat(parts), "items": recommender.item_matrix}
    write_json(folder / "names.json", {"users": [u for u, _ in rows], "items": recommender.items})
    return write_tensors(folder / "vectors.safetensors", tensors)


def prepare(cfg: Config, workspace: Workspace) -> Path:
    """Filter a raw log to its k-core and write it in RecBole's format.

    Raises:
        UserError: no file named, unreadable, or nothing left.
    """
    if cfg.prepare.input is None:
        raise UserError("name a log in prepare.input, such as a CSV file of user, item, timestamp")
    found = k_core(read_log(cfg.prepare.input), cfg.data.min_user, cfg.data.min_item)
    if not found:
        raise UserError("nothing is left: lower data.min_user and data.min_item")
    output = Path(cfg.prepare.output) if cfg.prepare.output else workspace.folder(".") / "log.inter"
    items = {item for _, own in found for item in own}
    actions = sum(len(own) for _, own in found)
    workspace.say(f"{len(found):,} users, {len(items):,} items, {actions:,} interactions: {output}")
    return write_inter(found, output)


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


def histories_of(cfg: Config) -> list[History]:
    """Histories of the config's file, or those of some users of its log."""
    if cfg.recommend.input is not None:
        return read_log(cfg.recommend.input)
    log = load_sets(cfg).log
    return [
        (user, [log.items[item - 1] for item in own])
        for user, own in list(zip(log.users, log.sequences, strict=True))[:SHOWN]
    ]
