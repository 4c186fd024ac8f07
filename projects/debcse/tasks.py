"""`make run TASK=mine` and `TASK=pairs`: the sampling on its own, and its distribution report."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.tables import write_jsonl
from common.encoders.text.sentence import SentenceEncoder
from common.engine.workspace import Workspace, write_json
from common.files import write_text
from projects.debcse.config import Config, IpwConfig
from projects.debcse.data import corpus
from projects.debcse.evaluate import examples, pair_figure, pair_metrics
from projects.debcse.mining import Mined, mine, scorer_encoding
from projects.debcse.offline_cache import OfflineCache
from projects.debcse.paraphrase import paraphrase
from projects.debcse.record import PairRecord, nli_labels, supervised_features
from projects.debcse.sampling import PairSampler
from projects.debcse.stages import load_scorer


def samplers(options: IpwConfig) -> dict[str, IpwConfig]:
    """The config's sampling and its ablations."""
    full = replace(options, positives="ipw", negatives="ipw", surface=True, semantic=True)
    return {
        "uniform": replace(full, positives="uniform", negatives="uniform"),
        "surface_only": replace(full, semantic=False),
        "semantic_only": replace(full, surface=False),
        "ipw": full,
    }


def mine_pairs(cfg: Config, workspace: Workspace) -> Path:
    """Fill the candidate cache and write the first epoch's pairs to pairs.jsonl.

    Raises:
        UserError: nothing is drawn under this config, or there is no scorer yet.
    """
    if not cfg.ipw.draws:
        raise UserError("nothing to mine: ipw.positives and ipw.negatives draw from no pool")
    mined = _mined(cfg, workspace, load_scorer(cfg))
    anchors = np.arange(mined.pools.num_anchors)
    draws = PairSampler(mined.pools, cfg.ipw, cfg.seed).draw(anchors, np.zeros_like(anchors))
    rows: list[dict[str, Any]] = []
    for anchor, ids, s, m in zip(anchors, draws.ids, draws.surface, draws.semantic, strict=True):
        row: dict[str, Any] = {"id": int(anchor), "anchor": mined.texts[anchor]}
        for side, name in enumerate(("positive", "negative")):
            if ids[side] >= 0:
                scores = {"surface": float(s[side]), "semantic": float(m[side])}
                measured = {k: round(v, 4) for k, v in scores.items() if v == v}
                row[name] = {"id": int(ids[side]), "text": mined.texts[ids[side]], **measured}
        rows.append(row)
    path = workspace.folder(".") / "pairs.jsonl"
    write_jsonl(path, rows)
    fallback = draws.fallback.mean(axis=0)
    workspace.note(
        f"{len(rows)} anchors; candidates in {mined.folder}; theta_pos {mined.pools.theta_pos:.4f},"
        f" theta_neg {mined.pools.theta_neg:.4f}; fallback rate {fallback[0]:.3f} (positives),"
        f" {fallback[1]:.3f} (negatives); pairs in {path}"
    )
    return path


def report_pairs(cfg: Config, workspace: Workspace) -> dict[str, dict[str, float]]:
    """Distribution report: drawn pairs of each sampler against supervised NLI pairs.

    Writes pairs.json and pairs.md, a figure and example pairs for each sampler. The labels of the
    NLI pairs are read here only; training sees none.

    Raises:
        UserError: there is no scorer yet.
    """
    scorer = load_scorer(cfg)
    mined = _mined(cfg, workspace, scorer)
    with scorer_encoding(cfg, scorer, mined) as encode:
        supervised = supervised_features(cfg, encode)
    labels = nli_labels(cfg)
    metrics = {}
    for name, options in samplers(cfg.ipw).items():
        record = PairRecord()
        record.fill(mined, PairSampler(mined.pools, options, cfg.seed), supervised, labels)
        metrics[name] = pair_metrics(record)
        workspace.figure(f"pairs {name}", pair_figure(record))
        workspace.gallery(f"drawn pairs {name}", examples(record, mined.texts))
    write_json(workspace.folder(".") / "pairs.json", metrics)
    names = list(dict.fromkeys(metric for row in metrics.values() for metric in row))
    header = ["metric", *metrics]
    table = [[n, *(f"{row[n]:.4f}" if n in row else "" for row in metrics.values())] for n in names]
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *table]]
    write_text(workspace.folder(".") / "pairs.md", "\n".join(lines) + "\n")
    return metrics


def _mined(cfg: Config, workspace: Workspace, scorer: SentenceEncoder) -> Mined:
    texts = corpus(cfg)
    if cfg.pool.paraphrases is not None:
        missing = len(OfflineCache(cfg.pool.paraphrases, settings=None).missing(texts))
        if missing == len(texts):
            raise UserError(
                f"pool.paraphrases={cfg.pool.paraphrases} has a paraphrase of none of the"
                f" {len(texts)} sentences: run TASK=paraphrase with the same data and seed, or"
                " leave it out"
            )
        if missing:
            workspace.say(f"{missing} of {len(texts)} sentences have no paraphrase")
    return mine(cfg, texts, scorer)


def write_paraphrases(cfg: Config, workspace: Workspace) -> None:
    """``TASK=paraphrase``: a paraphrase of each sentence, for ``pool.paraphrases``."""
    made = paraphrase(cfg, workspace)
    workspace.say(f"{made.computed - made.unchanged - made.long} sentences paraphrased")
    if made.unchanged:
        workspace.say(
            f"{made.unchanged} stay as they are: the answer was the same or shorter than two words"
        )
    if made.long:
        budget = cfg.paraphrase.prompt_budget
        workspace.say(
            f"{made.long} stay as they are: they have more than paraphrase.prompt_budget={budget}"
            " tokens"
        )


TASKS: Mapping[str, Callable[[Config, Workspace], object]] = {
    "mine": mine_pairs,
    "pairs": report_pairs,
    "paraphrase": write_paraphrases,
}
