"""Task metrics of teacher and student, the embedding on its own, and speed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from common.config import UserError
from common.data.text.options import metric_prefix
from common.data.text.pairs.readers import PairSet
from common.data.text.pairs.tasks import Kind
from common.data.text.sets import load_sts
from common.encoders.modes import evaluated, untrained
from common.engine.own_texts import judge_pairs
from common.engine.workspace import Workspace
from common.evaluation.features import geometry
from common.evaluation.text.sts_protocol import Encode, evaluate_sts
from common.evaluation.text.transfer import evaluate_transfer, load_transfer
from common.files import write_text
from projects.dse.config import Config
from projects.dse.module import DSE, build_scorer
from projects.dse.pair_classifier import PairModule, build_classifier, task_pairs
from projects.dse.pair_tasks import (
    logit_r2,
    predictions,
    relative_degradation,
    score_pair_task,
)
from projects.dse.speed import measure_costs, speed_metrics, speed_table
from projects.dse.stages import teacher_logits

# what a run, the table and the comparison measure degradation in
MAIN = {"multiclass": "accuracy", "binary": "accuracy", "regression": "pearson"}


def evaluate_pairs(cfg: Config, module: PairModule, workspace: Workspace) -> dict[str, float]:
    """``<part>_<metric>`` of every part; per pair right or wrong, or predicted and gold score."""
    metrics: dict[str, float] = {}
    with evaluated(module, cfg.trainer.accelerator):
        for part in cfg.eval.parts:
            data = task_pairs(cfg.data, part, cfg.seed)
            logits = module.pair_logits(data.pairs, cfg.eval.batch_size)
            metrics |= part_metrics(cfg, part, data, logits, workspace)
            if isinstance(module, DSE) and cfg.distill.alpha > 0:
                metrics |= against_teacher(cfg, part, data, logits)
    return metrics


def part_metrics(
    cfg: Config, part: str, data: PairSet, logits: Tensor, workspace: Workspace
) -> dict[str, float]:
    """Metrics of one part, and its items."""
    kind = cfg.data.pair_task.kind
    scores = score_pair_task(logits.numpy(), data.labels, kind, cfg.eval.thresholds)
    save_items(workspace, part, logits.numpy(), data.labels, kind, cfg.eval.thresholds[0])
    metrics = {f"{part}_{name}": value for name, value in scores.items()}
    if kind != "regression":
        metrics[f"{part}_accuracy_chance"] = float(np.bincount(data.labels).max() / len(data))
    return metrics


def save_items(
    workspace: Workspace,
    part: str,
    logits: np.ndarray,
    labels: np.ndarray,
    kind: Kind,
    threshold: float = 0.5,
) -> None:
    """What `make compare` pairs between arms."""
    predicted = predictions(logits, kind, threshold)
    if kind == "regression":
        workspace.rank_items(f"{part}_spearman", predicted.tolist(), labels.tolist())
    else:
        workspace.items(f"{part}_accuracy", (predicted == labels).astype(float).tolist())


def against_teacher(cfg: Config, part: str, data: PairSet, logits: Tensor) -> dict[str, float]:
    """How close the student is to the teacher: R2 of the logits, agreement, relative degradation.

    Degradation is that of accuracy or Pearson's r, and left out where the teacher's is not above 0.
    Nothing where the teacher's logits of this part are not stored (a named file of training
    logits).
    """
    try:
        teacher = teacher_logits(cfg, part, data).numpy()
    except UserError:
        return {}
    kind, student = cfg.data.pair_task.kind, logits.numpy()
    scores = [
        score_pair_task(x, data.labels, kind, cfg.eval.thresholds) for x in (teacher, student)
    ]
    metrics = {f"teacher_{part}_{name}": value for name, value in scores[0].items()}
    metrics[f"{part}_logit_r2"] = logit_r2(student, teacher)
    best, reached = (score[MAIN[kind]] for score in scores)
    if best > 0:
        metrics[f"{part}_relative_degradation"] = relative_degradation(best, reached)
    if kind != "regression":
        threshold = cfg.eval.thresholds[0]
        same = predictions(student, kind, threshold) == predictions(teacher, kind, threshold)
        metrics[f"{part}_agreement"] = float(same.mean())
    return metrics


def evaluate(cfg: Config, module: DSE, workspace: Workspace) -> dict[str, float]:
    """All metrics of a student."""
    metrics = evaluate_pairs(cfg, module, workspace)
    with evaluated(module, cfg.trainer.accelerator):
        metrics |= embedding_metrics(cfg, module, workspace)
        if cfg.eval.speed.queries:
            metrics |= speed(cfg, module, workspace)
    return metrics


def embedding_metrics(cfg: Config, module: DSE, workspace: Workspace) -> dict[str, float]:
    """The vectors as a frozen embedding: STS by cosine, transfer tasks by a linear probe."""
    encode = module.scorer.encode
    metrics: dict[str, float] = {}
    if cfg.eval.sts:
        sets = {name: load_sts(cfg.data.root, name) for name in cfg.eval.sts}
        metrics, cosines = evaluate_sts(encode, sets)
        for name, data in sets.items():
            workspace.rank_items(f"{metric_prefix(name)}_spearman", cosines[name], data.scores)
        first = next(iter(sets.values()))
        metrics["mean_cosine"] = geometry.mean_cosine(encode([*first.first, *first.second]))
    if cfg.eval.transfer:
        tasks = {name: load_transfer(cfg.data.root, name) for name in cfg.eval.transfer}
        metrics |= evaluate_transfer(encode, tasks)
    return metrics


def judge_cosines(cfg: Config, module: DSE, workspace: Workspace, path: Path) -> dict[str, float]:
    """Spearman of the vectors' cosine on a user's scored pairs, whatever the student's task is."""

    @contextmanager
    def encoding(student: DSE) -> Iterator[Encode]:
        with evaluated(student, cfg.trainer.accelerator):
            yield lambda texts: student.scorer.encode(texts, cfg.eval.batch_size)

    raw = untrained(lambda: DSE(cfg, build_scorer(cfg)), cfg.seed, module)
    return judge_pairs({"": encoding(module), "untrained_": encoding(raw)}, workspace, path)


def speed(cfg: Config, module: DSE, workspace: Workspace) -> dict[str, float]:
    """Speed table of the config's Q and K on texts of the first part; also written to speed.md."""
    options, data = cfg.eval.speed, task_pairs(cfg.data, cfg.eval.parts[0], cfg.seed)
    queries = repeated(data.first, options.queries)
    candidates = repeated(data.second, max(options.candidates))
    task = cfg.data.pair_task
    teacher = untrained(lambda: build_classifier(cfg.teacher, task), cfg.seed, module)
    costs = measure_costs(module.scorer, teacher, queries, candidates, options, cfg.eval.batch_size)
    rows = speed_table(costs, options)
    rows.insert(1, ["---"] * len(rows[0]))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    path = workspace.folder(".") / "speed.md"
    write_text(path, "\n".join(lines) + "\n")
    return speed_metrics(costs, options)


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """That many texts, distinct ones first, again from the start where there are fewer."""
    distinct = list(dict.fromkeys(texts))
    return [distinct[i % len(distinct)] for i in range(count)]
