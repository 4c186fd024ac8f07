"""Lexical tasks, cosine distributions and learning curve alongside the shared STS evaluation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from common.data.lookup import data_root
from common.data.text.options import metric_prefix
from common.engine.experiment import Requirement
from common.engine.tracking import read_metrics
from common.engine.workspace import Workspace, read_json
from common.evaluation.gallery import retrieval_gallery
from common.evaluation.text.sts import pair_cosine
from common.families.sentences.data import first_sts_set
from common.families.sentences.evaluation import encoding, evaluate_sentences, untrained_encoder
from projects.mirror_bert.config import Config
from projects.mirror_bert.lexicon import Encode, TitleSearch, evaluate_titles, title_search
from projects.mirror_bert.module import MirrorBERT
from projects.mirror_bert.word_similarity import evaluate_word_similarity, load_word_pairs

LEVEL_SCORE = "level_score"
_CURVES = {"val/sts_spearman": "STS dev Spearman", "val/esco_recall_at_1": "ESCO dev Recall@1"}


def evaluate(cfg: Config, module: MirrorBERT, workspace: Workspace) -> dict[str, float]:
    """Metrics of the shared evaluation and what this project adds.

    Added: ``esco_*`` (alternative -> preferred job title), ``<file>_spearman`` of word pairs, the
    same of the untrained encoder, ``level_score`` (the test metric of the level that was trained,
    by which arms of both levels are compared) and ``train_seconds``.
    """
    metrics = evaluate_sentences(cfg, module, workspace)
    with encoding(cfg, module.encoder) as encode:
        metrics |= lexical(cfg, encode, workspace)
        after = random_pair_cosines(cfg, encode)
    if cfg.eval.untrained:
        with encoding(cfg, untrained_encoder(cfg, module)) as encode:
            before = random_pair_cosines(cfg, encode)
            metrics |= {f"untrained_{k}": v for k, v in lexical(cfg, encode).items()}
        workspace.figure("cosines", cosine_figure(before, after))
    repeated = [k for k in metrics if k.startswith("untrained_") and k.endswith("_chance")]
    metrics = {k: v for k, v in metrics.items() if k not in repeated}
    headline = f"{metric_prefix(cfg.eval.sets[0])}_spearman"
    headline = "esco_recall_at_1" if cfg.eval.level == "lexical" else headline
    metrics[LEVEL_SCORE] = metrics[headline]
    save_level_items(workspace, headline)
    if module.train_seconds:
        metrics["train_seconds"] = module.train_seconds
    if (curve := curve_figure(workspace.curves)) is not None:
        workspace.figure("steps", curve)
    return metrics


def lexical(cfg: Config, encode: Encode, workspace: Workspace | None = None) -> dict[str, float]:
    """Title retrieval and word similarity; with a workspace also items and gallery.

    Raises:
        UserError: a file of word pairs is missing.
    """
    metrics: dict[str, float] = {}
    if cfg.eval.titles != "none":
        task = title_search(cfg.data.root, cfg.eval.titles, cfg.eval.num_titles)
        metrics, hits = evaluate_titles(encode, task)
        if workspace is not None:
            workspace.items("esco_recall_at_1", hits)
            workspace.gallery("job titles", title_gallery(encode, task))
    if cfg.eval.word_pairs:
        sets = {Path(name).stem: word_set(cfg, name) for name in cfg.eval.word_pairs}
        metrics |= evaluate_word_similarity(encode, sets)[0]
    return metrics


def word_set(cfg: Config, name: str) -> Any:
    """Word pairs of a file below the data root (or of an absolute path)."""
    path = word_pair_file(cfg, name)
    first, second, score = cfg.eval.word_columns
    delimiter = "," if path.suffix == ".csv" else "\t"
    return load_word_pairs(
        path, first=first, second=second, score=score, subset=None, delimiter=delimiter
    )


def word_pair_file(cfg: Config, name: str) -> Path:
    """Where a file of word pairs lies."""
    return data_root(cfg.data.root) / Path(name).expanduser()


def word_pair_requirements(cfg: Config) -> Iterator[Requirement]:
    """Files of word pairs."""
    for name in cfg.eval.word_pairs:
        path = word_pair_file(cfg, name)
        yield Requirement(f"data: {path.name}", str(path), path.is_file(), "see the card, Data")


def title_gallery(encode: Encode, task: TitleSearch) -> list[dict[str, Any]]:
    """Best preferred titles of a few alternative ones."""
    picked = range(0, len(task.queries), max(1, len(task.queries) // 8))
    queries = [task.queries[i] for i in picked]
    scores = F.normalize(encode(queries), dim=1) @ F.normalize(encode(task.gallery), dim=1).T
    right = [task.relevant[i][0] for i in picked]
    return retrieval_gallery(scores, queries, task.gallery, right)


def random_pair_cosines(cfg: Config, encode: Encode) -> Tensor:
    """Cosines of unrelated texts, (N,): every first sentence of the STS set with another's second.

    The partner is the one half the set away.
    """
    pairs = first_sts_set(cfg)
    second = encode(pairs.second)
    return pair_cosine(encode(pairs.first), second.roll(len(second) // 2, dims=0))


def save_level_items(workspace: Workspace, metric: str) -> None:
    """Keep the items of the level's metric under the name by which arms are compared."""
    items = read_json(workspace.folder("items") / f"{metric}.json")
    if isinstance(items, dict):
        workspace.rank_items(LEVEL_SCORE, items["predicted"], items["gold"])
    else:
        workspace.items(LEVEL_SCORE, items)


def cosine_figure(before: Tensor, after: Tensor) -> Any:
    """Distribution of the cosines of unrelated texts before and after training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    for name, values in (("before", before), ("after", after)):
        label = f"{name}: mean {float(values.mean()):.2f}"
        axes.hist(values.tolist(), bins=40, range=(-0.5, 1.0), alpha=0.6, label=label)
    axes.set_xlabel("cosine of unrelated texts")
    axes.set_ylabel("pairs")
    axes.legend()
    return figure


def curve_figure(path: Path) -> Any:
    """Development scores against the number of steps; None if the run did not validate.

    A validation is logged with the index of the last step, which counts from 0.
    """
    from matplotlib.figure import Figure

    curves = read_metrics(path) if path.is_file() else {}
    curves = {
        label: points
        for key, label in _CURVES.items()
        for name, points in curves.items()
        if name.endswith(f"/{key}")
    }
    if not curves:
        return None
    figure = Figure(figsize=(4.5, 3))
    axes = figure.subplots()
    for label, points in curves.items():
        steps, values = zip(*sorted(points), strict=True)
        axes.plot([step + 1 for step in steps], values, marker="o", label=label)
    axes.set_xlabel("optimiser steps")
    axes.legend()
    return figure
