"""``eval.own``: other users' log, over the items that a model was trained with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.config import UserError
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.mclrec.config import Config
from projects.mclrec.data import load_sets
from projects.mclrec.evaluate import COUNTING, encoder_score
from projects.mclrec.interactions import Ids, read_log
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.module import MCLRec
from projects.mclrec.ranking import Score, full_ranking, gains, hits, rank_metrics

SHOWN, BEST = 6, 5  # users of the gallery; items of each
NAMED = 5  # unknown items that the note lists


def judge_log(cfg: Config, module: MCLRec, workspace: Workspace, path: Path) -> dict[str, float]:
    """Rank of each user's last item among all items of the training log.

    Items that training did not know are left out, then users of fewer than two items; both are
    counted. The counting baselines are fitted on the training log.

    Args:
        cfg: with the data settings of the training.
        module: trained.
        workspace: takes items, a gallery and a note on unknown items.
        path: a log in a format of `read_log`.

    Returns:
        ``num_users``, ``num_skipped_users``, ``num_items`` (of the training log),
        ``num_interactions`` and ``num_unknown_interactions``; ``hr_at_k``, ``ndcg_at_k``,
        ``mrr_at_k``, the same as ``untrained_*`` and of every counting baseline.

    Raises:
        UserError: no user has two known items, or the training log is not the model's.
    """
    sets = load_sets(cfg)
    check_items(module.items, item_hash(sets.log.items))
    ids = {name: row for row, name in enumerate(sets.log.items, start=1)}
    rows = read_log(path)
    unknown = [item for _, items in rows for item in items if item not in ids]
    known = [np.array([ids[i] for i in items if i in ids], dtype=np.int64) for _, items in rows]
    kept = [sequence for sequence in known if len(sequence) >= 2]
    if not kept:
        raise UserError(
            f"{path}: no user has two of the {len(ids):,} items that training knew; train on your"
            " log with data.source=file, see docs/your-data.md"
        )
    if unknown:
        names = list(dict.fromkeys(unknown))
        more = ", ..." if len(names) > NAMED else ""
        workspace.say(
            f"{path.name}: {len(unknown)} interactions with {len(names)} items that training did"
            f" not know are left out: {', '.join(names[:NAMED])}{more}"
        )
    histories = [sequence[:-1] for sequence in kept]
    targets = np.array([sequence[-1] for sequence in kept], dtype=np.int64)

    def ranked(score: Score) -> np.ndarray:
        return full_ranking(
            score,
            histories,
            targets,
            mask_history=cfg.eval.mask_history,
            batch_size=cfg.eval.batch_size,
        )

    counts = {
        "num_users": len(kept),
        "num_skipped_users": len(rows) - len(kept),
        "num_items": len(ids),
        "num_interactions": sum(len(items) for _, items in rows),
        "num_unknown_interactions": len(unknown),
    }
    metrics = {name: float(count) for name, count in counts.items()}
    with evaluated(module, cfg.trainer.accelerator), torch.no_grad():
        score = encoder_score(module.encoder, cfg.data.max_length)
        ranks = ranked(score)
        workspace.gallery("next items", _gallery(score, histories, targets, ranks, sets.log.items))
    top = max(cfg.eval.ks)
    workspace.items(f"ndcg_at_{top}", gains(ranks, top).tolist())
    workspace.items(f"hr_at_{top}", hits(ranks, top).tolist())
    metrics |= rank_metrics(ranks, cfg.eval.ks)
    raw = untrained(lambda: MCLRec(cfg, sets.log.items), cfg.seed, module).encoder
    rivals = {"untrained": encoder_score(raw, cfg.data.max_length)}
    rivals |= {name: fit(sets.split.train, len(ids)) for name, fit in COUNTING.items()}
    with torch.no_grad():
        for name, rival in rivals.items():
            values = rank_metrics(ranked(rival), cfg.eval.ks)
            metrics |= {f"{name}_{metric}": value for metric, value in values.items()}
    return metrics


def _gallery(
    score: Score, histories: Sequence[Ids], targets: Ids, ranks: np.ndarray, items: Sequence[str]
) -> list[dict[str, object]]:
    """The best items of the users whose last item is ranked best and worst."""
    order = np.argsort(ranks, kind="stable")
    chosen = dict.fromkeys([*order[: SHOWN // 2].tolist(), *order[-(SHOWN // 2) :].tolist()])
    rows: list[dict[str, object]] = []
    for user in chosen:
        values = score([histories[user]])[0]
        values[0] = -torch.inf
        best = values.topk(min(BEST, len(items)))
        results = [
            {"item": items[i - 1], "score": value, "correct": bool(i == targets[user])}
            for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        history = ", ".join(items[i - 1] for i in histories[user][-BEST:])
        query = f"{history} -> {items[targets[user] - 1]} (rank {ranks[user]})"
        rows.append({"query": query, "results": results})
    return rows
