"""Answers of the targets' test parts, and what the demonstrations have to do with them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.encoders.modes import evaluated
from common.engine.workspace import Workspace, write_json
from projects.demo_retrieval.bank import Demonstrations
from projects.demo_retrieval.batches import EvalRows
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.question_answering import (
    answer_exact,
    answer_f1,
    best_answer,
    normalize_answer,
)
from projects.demo_retrieval.sources import Task
from projects.demo_retrieval.stages import Tasks, demonstrations_of, make_bank, read_tasks, rows_of
from projects.demo_retrieval.template import Example, demonstration_text

SHOWN = 12  # inputs of the gallery


class Answers(NamedTuple):
    """Answers of one task's inputs."""

    generated: list[str]  # [] if none were asked for
    ranked: list[str]  # best label; [] of question answering
    headline: str = "generated"  # which of both a task with labels is judged by

    @property
    def told(self) -> list[str]:
        """The answers that the headline is about; questions without labels have free ones alone."""
        return self.ranked if self.ranked and self.headline == "ranked" else self.generated


def evaluate(cfg: Config, module: DemoRetrieval, workspace: Workspace) -> dict[str, float]:
    """Metrics of every target, ``<task>_<metric>``, and their means over the targets.

    Args:
        cfg: the experiment's config.
        module: trained; a module without a bank gets the config's.
        workspace: keeps items, a gallery of demonstrations and manifest.json.
    """
    tasks = read_tasks(cfg)
    if module.bank is None:
        module.bank = make_bank(cfg, tasks)
    write_manifest(cfg, module, tasks, workspace)
    metrics: dict[str, float] = {}
    values: dict[str, list[str]] = {}
    for task in tasks.targets:
        rows = rows_to_answer(cfg, module, task)
        answers = answered(cfg, module, task, rows)
        items = score(task, rows.examples, answers) | mechanism(task, rows, answers)
        prefix = short(task.name)
        for name, per_row in items.items():
            metrics[f"{prefix}_{name}"] = float(np.mean(per_row))
            workspace.items(f"{prefix}_{name}", per_row)
            values.setdefault(name, []).append(f"{prefix}_{name}")
        if task.labels:
            metrics[f"{prefix}_accuracy_chance"] = 1 / len(task.labels)
            gold = [e.answers[0] for e in rows.examples]
            for kind, texts in named(answers).items():
                metrics[f"{prefix}_{kind}macro_f1"] = macro_f1(texts, gold)
        gallery(rows, answers, task, workspace)
    for name, own_names in values.items():  # means over the targets that have the metric
        metrics[name] = float(np.mean([metrics[n] for n in own_names]))
        workspace.mean_items(name, own_names)
    chances = [metrics[n] for n in metrics if n.endswith("_accuracy_chance")]
    return metrics | ({"accuracy_chance": float(np.mean(chances))} if chances else {})


def short(name: str) -> str:
    """A task's name within that of a metric."""
    return name.replace("/", "_").replace("-", "_").lower()


def rows_to_answer(cfg: Config, module: DemoRetrieval, task: Task) -> EvalRows:
    """Test or development inputs of a target with their demonstrations.

    With `eval.gold` with themselves.
    """
    assert module.encoder is not None
    part = (task.dev if cfg.eval.split == "dev" else task.test)[: cfg.eval.limit]
    if cfg.eval.gold:
        rows = EvalRows(part, module.encoder, Demonstrations(None, "none", 1, 1.0), cfg.seed)
        rows.shown = [[e] for e in part]
        return rows
    return EvalRows(part, module.encoder, demonstrations_of(cfg, module.bank), cfg.seed)


def answered(cfg: Config, module: DemoRetrieval, task: Task, rows: EvalRows) -> Answers:
    """What the module answers, freely and among the task's labels."""
    generated: dict[int, str] = {}
    ranked: dict[int, str] = {}
    rank = bool(task.labels) and cfg.eval.rank
    # inputs of similar length share a batch
    order = sorted(range(len(rows)), key=lambda i: len(rows.examples[i].context))
    with evaluated(module, cfg.trainer.accelerator):
        device = next(module.parameters()).device
        for start in range(0, len(order), cfg.eval.batch_size):
            part = order[start : start + cfg.eval.batch_size]
            batch = rows.collate(part)
            for name in ("input_ids", "attention_mask", "scores"):
                batch[name] = batch[name].to(device)
            if not rank or cfg.eval.generate:
                generated |= zip(part, module.answers(batch), strict=True)
            if rank:
                best = module.ranked(batch, task.labels).argmax(1).tolist()
                ranked |= zip(part, (task.labels[i] for i in best), strict=True)
    places = range(len(rows))
    return Answers(
        [generated[i] for i in places if i in generated],
        [ranked[i] for i in places if i in ranked],
        cfg.eval.headline,
    )


def named(answers: Answers) -> dict[str, list[str]]:
    """Answers under the beginnings of their metrics' names; the headline's have none."""
    kinds = {"": answers.told, "generated_": answers.generated, "ranked_": answers.ranked}
    return {kind: texts for kind, texts in kinds.items() if texts}


def score(task: Task, examples: Sequence[Example], answers: Answers) -> dict[str, list[float]]:
    """Values of each input: F1 and exact match of questions, accuracy of labels."""
    golds = [e.answers for e in examples]
    if not task.labels:
        return {
            "f1": [
                best_answer(answer_f1, t, g) for t, g in zip(answers.generated, golds, strict=True)
            ],
            "exact": [
                best_answer(answer_exact, t, g)
                for t, g in zip(answers.generated, golds, strict=True)
            ],
        }
    return {
        f"{kind}accuracy": [
            best_answer(answer_exact, t, g) for t, g in zip(texts, golds, strict=True)
        ]
        for kind, texts in named(answers).items()
    }


def macro_f1(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Mean over the classes of F1 of normalised answers."""
    from sklearn.metrics import f1_score

    sides = [[normalize_answer(t) for t in side] for side in (gold, predicted)]
    return float(f1_score(*sides, labels=sorted(set(sides[0])), average="macro", zero_division=0.0))


def mechanism(task: Task, rows: EvalRows, answers: Answers) -> dict[str, list[float]]:
    """How often a demonstration holds the right answer, is copied, or is of another task.

    Returns:
        Of each input: ``label_hit`` (some demonstration has an accepted answer), ``copied`` (the
        answer is that of some demonstration), ``other_task`` (share of the K of other tasks).
    """
    items: dict[str, list[float]] = {"label_hit": [], "copied": [], "other_task": []}
    for example, shown, answer in zip(rows.examples, rows.shown, answers.told, strict=True):
        present = [d for d in shown if d is not None]
        if not present:
            return {}
        words = {normalize_answer(d.answers[0]) for d in present if d.answers}
        items["label_hit"].append(float(any(normalize_answer(a) in words for a in example.answers)))
        items["copied"].append(float(normalize_answer(answer) in words))
        items["other_task"].append(float(np.mean([d.task != task.name for d in present])))
    return items


def write_manifest(cfg: Config, module: DemoRetrieval, tasks: Tasks, workspace: Workspace) -> None:
    """Write manifest.json: tasks, sizes, examples an epoch, what was too long, index hash."""
    manifest = tasks.manifest() | {"exclude_eval_tasks": cfg.data.exclude_eval_tasks}
    if module.encoder is not None:
        plain = DemoRetrieval(cfg, module.network, module.tokenizer)
        meta, targets = (
            rows_of(cfg, plain, part, 1) if part else None for part in (tasks.meta, tasks.targets)
        )
        manifest["meta_epoch"] = {} if meta is None else meta.counts()
        manifest["too_long"] = {
            k: n
            for rows in (meta, targets)
            if rows is not None
            for k, n in rows.too_long.items()
            if n
        }
    if module.bank is not None:
        manifest["index"] = module.bank.digest()
    write_json(workspace.folder(".") / "manifest.json", manifest)


def gallery(rows: EvalRows, answers: Answers, task: Task, workspace: Workspace) -> None:
    """A few inputs with their demonstrations and answers."""
    texts = answers.told
    shown = []
    for i in range(0, len(rows), max(1, len(rows) // SHOWN)):
        demonstrations, weights = rows.shown[i], rows.scores[i].softmax(0)
        right = [normalize_answer(a) for a in rows.examples[i].answers]
        results = [
            {
                "item": demonstration_text(d, options=False).replace(" \n ", " | "),
                "score": float(w),
                "name": d.task,
                "correct": bool(d.answers) and normalize_answer(d.answers[0]) in right,
            }
            for d, w in zip(demonstrations, weights, strict=True)
            if d is not None
        ]
        if results:
            query = f"{rows.examples[i].question} | {rows.examples[i].context} -> {texts[i] or '-'}"
            shown.append({"query": query, "results": results})
    if shown:
        workspace.gallery(f"demonstrations {short(task.name)}", shown)
