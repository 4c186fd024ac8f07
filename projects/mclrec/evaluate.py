"""Full ranking of all items for every user, with what the trivial recommenders reach next to it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from common.data.samplers import sample_rng
from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from projects.mclrec import counting
from projects.mclrec.config import Config
from projects.mclrec.data import Sets, load_sets, training_set
from projects.mclrec.item_list import check_items, item_hash
from projects.mclrec.leave_one_out import right_padded
from projects.mclrec.module import MCLRec
from projects.mclrec.ranking import (
    Ranks,
    Score,
    full_ranking,
    gains,
    hits,
    rank_metrics,
)
from projects.mclrec.sasrec import SASRec

NOISE_STREAM = 2**31 + 89
PROBED = 512  # rows whose views are compared
REACH, MEMORY = (
    3,
    3,
)  # of the skip-Markov chain: the best NDCG@20 on validation items of five settings
COUNTING: Mapping[str, Callable[[Sequence[np.ndarray], int], Score]] = {
    "popularity": counting.popularity,
    "markov": counting.markov,
    "skip_markov": lambda train, n: counting.markov(train, n, reach=REACH, memory=MEMORY),
    "item_knn": counting.item_knn,
}


def evaluate(cfg: Config, module: MCLRec, workspace: Workspace) -> dict[str, float]:
    """``hr_at_k``, ``ndcg_at_k``, ``mrr_at_k``; groups of users; cosines of views; references.

    Raises:
        UserError: the log has other items than the module's.
    """
    sets = load_sets(cfg)
    check_items(module.items, item_hash(sets.log.items))
    with evaluated(module, cfg.trainer.accelerator):
        ranks = ranks_of(cfg, sets, encoder_score(module.encoder, cfg.data.max_length))
        metrics = metrics_of(cfg, sets, ranks, workspace) | view_cosines(cfg, module, sets)
    if cfg.eval.reference:
        build = lambda: MCLRec(cfg, sets.log.items)  # noqa: E731
        raw = untrained(build, cfg.seed, module).encoder
        with torch.no_grad():
            scores = {"untrained": encoder_score(raw, cfg.data.max_length)}
            scores |= {
                name: fit(sets.split.train, sets.num_items) for name, fit in COUNTING.items()
            }
            for name, score in scores.items():
                baseline = rank_metrics(ranks_of(cfg, sets, score), cfg.eval.ks)
                metrics |= {f"{name}_{key}": value for key, value in baseline.items()}
    return metrics


def encoder_score(encoder: SASRec, max_length: int) -> Score:
    """Scores of an encoder that is in evaluation mode."""
    device = encoder.item_embedding.weight.device

    def score(histories: Sequence[np.ndarray]) -> Tensor:
        items, lengths = right_padded(histories, max_length)
        return encoder.scores(encoder.user_vectors(items.to(device), lengths.to(device)))

    return score


def ranks_of(cfg: Config, sets: Sets, score: Score) -> Ranks:
    """Ranks of the held-out items under the config's protocol."""
    part = cfg.eval.part
    histories = sets.split.histories(part)
    if cfg.eval.noise:
        histories = [
            with_noise(
                history, cfg.eval.noise, sets.num_items, sample_rng(0, 0, user, NOISE_STREAM)
            )
            for user, history in enumerate(histories)
        ]
    return full_ranking(
        score,
        histories,
        sets.split.targets(part),
        mask_history=cfg.eval.mask_history,
        batch_size=cfg.eval.batch_size,
    )


def with_noise(
    items: np.ndarray, share: float, num_items: int, rng: np.random.Generator
) -> np.ndarray:
    """Random items at random places, as many as `share` of the history, rounded up."""
    count = int(np.ceil(share * len(items)))
    places = rng.integers(len(items) + 1, size=count)
    return np.insert(items, places, rng.integers(1, num_items + 1, size=count))


def metrics_of(cfg: Config, sets: Sets, ranks: Ranks, workspace: Workspace) -> dict[str, float]:
    """Metrics, their chance level, and NDCG by history length and item popularity."""
    top = max(cfg.eval.ks)
    workspace.items(f"ndcg_at_{top}", gains(ranks, top).tolist())
    workspace.items(f"hr_at_{top}", hits(ranks, top).tolist())
    metrics = rank_metrics(ranks, cfg.eval.ks)
    metrics[f"hr_at_{top}_chance"] = min(1.0, top / sets.num_items)
    lengths = np.array([len(history) for history in sets.split.histories(cfg.eval.part)])
    counts = np.bincount(np.concatenate(sets.split.train), minlength=sets.num_items + 1)
    popular = counts[sets.split.targets(cfg.eval.part)]
    for name, values in (("length", lengths), ("popularity", popular)):
        edges = np.quantile(values, [1 / 3, 2 / 3])
        for group, level in enumerate(("low", "middle", "high")):
            chosen = np.searchsorted(edges, values) == group
            if chosen.any():
                metrics[f"{name}_{level}_ndcg_at_{top}"] = float(gains(ranks, top)[chosen].mean())
    return metrics


def view_cosines(cfg: Config, module: MCLRec, sets: Sets) -> dict[str, float]:
    """Cosines of the views of training rows: mean of the pairs, mean and spread of the others.

    Of the encoded views (``h_*``), also where nothing was trained on views; and, where there are
    augmenters, of what these make of them (``z_*``).
    """
    train = training_set(cfg, sets, views=True)
    rows = sample_rng(cfg.seed, 0, 0, NOISE_STREAM).permutation(len(train))[:PROBED]
    batch = train[[(int(row), 0) for row in rows]]
    device = module.encoder.item_embedding.weight.device
    moved = {name: value.to(device) for name, value in batch.items()}  # type: ignore[attr-defined]
    h = module.encode_views(moved)  # type: ignore[arg-type]
    pairs = {"h": h} if module.augmenters is None else {"h": h, "z": module.augmenters(*h)}
    cosine_metrics: dict[str, float] = {}
    for name, (x_1, x_2) in pairs.items():
        x_1, x_2 = (torch.nn.functional.normalize(x, dim=1) for x in (x_1, x_2))
        cosines = x_1 @ x_2.T
        others = cosines[~torch.eye(len(cosines), dtype=torch.bool, device=device)]
        cosine_metrics[f"{name}_positive_cosine"] = float(cosines.diagonal().mean())
        cosine_metrics[f"{name}_negative_cosine"] = float(others.mean())
        cosine_metrics[f"{name}_negative_spread"] = float(others.std())
    return cosine_metrics
