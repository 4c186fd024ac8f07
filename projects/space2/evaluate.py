"""Evaluation after pre-training: do cosines of turns from unseen services follow the trees?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.lookup import data_root
from common.data.samplers import sample_rng
from common.engine.workspace import Workspace
from common.evaluation.features.few_shot import few_shot_class_mean
from projects.space2.config import Config
from projects.space2.dialogs import turns as sets
from projects.space2.dialogs.trees import (
    Frame,
    combined_matrix,
    is_empty,
    view_matrices,
    view_sets,
)
from projects.space2.dialogs.turns import Corpus, Dialog, user_turns
from projects.space2.module import Space2

QUERIES, _DRAW_STREAM = 15, 2**31 + 73
CLINC_TURNS = 1500  # requests of the 50 intents that nothing was trained on
VIEW_TURNS = 400  # turns whose pairs are ranked within one view


class HeldOut(NamedTuple):
    """Turns of the scored part: their dialogues, places, trees."""

    dialogs: tuple[Dialog, ...]
    places: list[tuple[int, int]]
    frames: list[Frame]

    def texts(self) -> list[str]:
        """The utterances alone."""
        return [self.dialogs[d].turns[t].text for d, t in self.places]

    def classes(self) -> list[str]:
        """Classes of an intent set; sets of acts elsewhere."""
        named = [self.dialogs[d].turns[t].intent for d, t in self.places]
        return [
            n or "+".join(sorted(view_sets(f)["I"]))
            for n, f in zip(named, self.frames, strict=True)
        ]


def evaluate(cfg: Config, module: Space2, workspace: Workspace) -> dict[str, float]:
    """Rank correlations with the tree score, nearest neighbours, few-shot classes."""
    network, accelerator = module.network, cfg.trainer.accelerator

    def vectors(held: HeldOut) -> dict[str, Tensor]:
        rows = network.texts.encode(held.dialogs, held.places)
        sentence = network.encode(rows, cfg.eval.batch_size, accelerator)
        whole = F.normalize(sentence, dim=-1)[:, None]
        if not network.views:  # nothing but the sentence vector was trained
            return {"": whole}
        with torch.no_grad():  # a sub-space that was not trained says nothing
            views = network.view_vectors(sentence.to(network.device), network.views).cpu()
        return {"": F.normalize(views, dim=-1), "_sentence": whole}

    return score_vectors(cfg, vectors, workspace, network.views)


def score_vectors(
    cfg: Config,
    vectors: Callable[[HeldOut], dict[str, Tensor]],
    workspace: Workspace,
    views: Sequence[str] = (),
) -> dict[str, float]:
    """Metrics of vectors (N, K, d) of the held-out turns, by suffix.

    The first one leaves its items.

    Args:
        cfg: the experiment's config.
        vectors: `HeldOut` -> unit vectors by suffix of their metrics; the cosine of two turns is
            the mean over the K.
        workspace: for items and a gallery.
        views: of the K vectors without a suffix; () if they are of no view.
    """
    held = held_out(cfg)
    metrics: dict[str, float] = {}
    for suffix, z in vectors(held).items():
        similarity = torch.einsum("nkd,mkd->nm", z, z).numpy() / z.shape[1]
        scores = score_similarity(held, similarity, None if suffix else workspace)
        if views and not suffix:
            scores |= view_scores(held, z, views)
        scores |= few_shot(
            "act", held.classes()[: cfg.eval.act_turns], z[: cfg.eval.act_turns], cfg
        )
        metrics |= {f"{name}{suffix}": value for name, value in scores.items()}
    if cfg.data.source == "bundled":
        other = sample(sets.clinc(cfg.eval.part, False, cfg.data.root), CLINC_TURNS)
        for suffix, z in vectors(other).items():
            scores = few_shot("intent", other.classes(), z, cfg)
            metrics |= {f"{name}{suffix}": value for name, value in scores.items()}
    return metrics


def score_similarity(
    held: HeldOut, similarity: np.ndarray, workspace: Workspace | None
) -> dict[str, float]:
    """Agreement of similarities (N, N) with the combined tree scores of the turns.

    ``turn_spearman``: mean over turns of the correlation over all other turns (0 where all
    similarities of a turn are equal). ``tree_spearman``: over all pairs, and over those that share
    anything (``_related``). ``neighbour_score``: tree score of a turn and its most similar other
    one.
    """
    tree = combined_matrix(held.frames)
    count = len(tree)
    off = ~np.eye(count, dtype=bool)
    gold, cosine = (m[off].reshape(count, count - 1) for m in (tree, similarity))
    valid = gold.max(1) > gold.min(1)  # turns whose tree tells others apart
    if not valid.any():
        raise UserError("the held-out turns share nothing: no tree score differs from another")
    per_turn = np.zeros(count)
    per_turn[valid] = row_correlations(
        rankdata(gold[valid], axis=1), rankdata(cosine[valid], axis=1)
    )
    pairs = np.triu_indices(count, 1)
    all_gold, all_told = tree[pairs], similarity[pairs]
    related = all_gold > 0
    best = cosine.argmax(1)
    neighbour = gold[np.arange(count), best]
    if workspace is not None:
        workspace.items("turn_spearman", per_turn[valid].tolist())
        workspace.items("neighbour_score", neighbour.tolist())
        _gallery(held, tree, similarity, workspace)
    return {
        "turn_spearman": float(per_turn[valid].mean()),
        "tree_spearman": correlation(all_gold, all_told),
        "tree_spearman_related": correlation(all_gold[related], all_told[related]),
        "neighbour_score": float(neighbour.mean()),
        "related_pairs": float(related.mean()),
    }


def view_scores(held: HeldOut, z: Tensor, views: Sequence[str]) -> dict[str, float]:
    """Cosines in each sub-space against the scores of its view, among some turns.

    ``view_spearman_<view>``: correlation over all pairs. ``view_neighbour_<view>``: score under the
    view of a turn and its nearest other one, over turns that have an element of the view;
    ``_chance``: of a turn and any other one.

    Args:
        held: N turns.
        z: (N, K, d) unit vectors.
        views: K.
    """
    some = list(range(min(len(z), VIEW_TURNS)))
    frames = [held.frames[i] for i in some]
    scores = view_matrices(frames, views)
    pairs, off = np.triu_indices(len(some), 1), ~np.eye(len(some), dtype=bool)
    metrics = {}
    for k, view in enumerate(views):
        cosines = (z[some, k] @ z[some, k].T).numpy()
        metrics[f"view_spearman_{view}"] = correlation(scores[k][pairs], cosines[pairs])
        has = np.array([bool(view_sets(frame)[view]) for frame in frames])
        if has.any():
            nearest = np.where(off, cosines, -np.inf).argmax(1)
            best = scores[k][np.arange(len(some)), nearest]
            metrics[f"view_neighbour_{view}"] = float(best[has].mean())
            metrics[f"view_neighbour_{view}_chance"] = float(scores[k][has][off[has]].mean())
    return metrics


def few_shot(name: str, classes: Sequence[str], z: Tensor, cfg: Config) -> dict[str, float]:
    """Accuracy and chance of the nearest class mean, over the classes that are large enough."""
    labels = np.unique(classes, return_inverse=True)[1]
    counts = np.bincount(labels)
    large = np.flatnonzero(counts >= cfg.eval.shots + QUERIES)
    if len(large) < 2:
        return {}
    kept = np.flatnonzero(np.isin(labels, large))
    result = few_shot_class_mean(
        z[kept].flatten(1),
        torch.as_tensor(labels[kept]),
        ways=len(large),
        shots=cfg.eval.shots,
        queries=QUERIES,
        episodes=cfg.eval.episodes,
    )
    key = f"{name}_{cfg.eval.shots}shot"
    return {key: result["few_shot_top1"], f"{key}_chance": result["few_shot_top1_chance"]}


# -- which turns ---------------------------------------------------------------------------------


def scored_corpus(cfg: Config) -> Corpus:
    """The corpus whose turns are scored.

    Of the bundled sets services that nothing was trained on; of corpora the held-out part of one
    whose training part was usually trained on.

    Raises:
        UserError: no corpus with a test part.
    """
    data, part = cfg.data, cfg.eval.part
    if data.source == "synthetic":
        return sets.synthetic(part, cfg.seed)
    if data.source == "bundled":
        return sets.sgd(part, data.root)
    return sets.read_corpus(*scored_folder(cfg))


def scored_folder(cfg: Config) -> tuple[Path, str]:
    """Folder and part of the corpus that is scored with data.source=corpora.

    Asked for before training.

    Raises:
        UserError: no corpus with that part.
    """
    data, file = cfg.data, "valid" if cfg.eval.part == "dev" else "test"
    folder = data_root(data.root) / data.labelled
    corpora = data.corpora if cfg.eval.corpus is None else [cfg.eval.corpus]
    folders = [
        p
        for p in sorted(folder.glob("*"))
        if (p / f"{file}.json").is_file() and (not corpora or p.name in corpora)
    ]
    if not folders:
        names = ", ".join(corpora) or "no corpus"
        raise UserError(
            f"nothing to be scored on: of {names} below {folder} there is no {file}.json; add one,"
            " or set eval.corpus or eval.part"
        )
    return folders[0], file


def held_out(cfg: Config) -> HeldOut:
    """The turns that are scored, the same for every seed."""
    return sample(scored_corpus(cfg), cfg.eval.turns)


def sample(corpus: Corpus, count: int) -> HeldOut:
    """Some annotated user turns, drawn without a seed of the experiment."""
    places = [
        (d, t)
        for d, t in user_turns(corpus.dialogs)
        if not is_empty(corpus.dialogs[d].turns[t].frame)
    ]
    if len(places) < 3:
        raise UserError(f"corpus {corpus.name} has {len(places)} annotated turns to be scored on")
    order = sample_rng(0, 0, 0, _DRAW_STREAM).permutation(len(places))[:count]
    chosen = [places[int(i)] for i in order]
    return HeldOut(corpus.dialogs, chosen, [corpus.dialogs[d].turns[t].frame for d, t in chosen])


# -- arithmetic ----------------------------------------------------------------------------------


def row_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of (N, M) with the same row of another.

    0 of a constant row.
    """
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.where(scale > 0, (a * b).sum(1) / np.where(scale > 0, scale, 1), 0.0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of two samples; 0 if one is constant."""
    return float(row_correlations(rankdata(a)[None], rankdata(b)[None])[0])


def _gallery(held: HeldOut, tree: np.ndarray, similarity: np.ndarray, workspace: Workspace) -> None:
    texts, rows = held.texts(), []
    for i in range(min(8, len(texts))):
        order: Sequence[int] = [int(j) for j in np.argsort(-similarity[i]) if j != i][:5]
        results = [
            {
                "item": texts[j],
                "score": float(similarity[i, j]),
                "correct": bool(tree[i, j] > 0),
                "name": f"tree {tree[i, j]:.2f}",
            }
            for j in order
        ]
        rows.append({"query": texts[i], "results": results})
    workspace.gallery("nearest turns", rows)
