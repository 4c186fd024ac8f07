"""Accuracy per task, word error rates, forgetting, and how far the features of old classes move."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.data.speech.transcripts import SpokenTarget
from common.data.tables import write_jsonl
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.evaluation.figures import embedding_map
from projects.coconut.config import Config
from projects.coconut.continual import (
    accuracy_after_each_task,
    average_accuracy_items,
    continual_metrics,
)
from projects.coconut.continual_figures import task_curves, task_heat_map
from projects.coconut.data import Samples
from projects.coconut.module import Coconut
from projects.coconut.speech.error_rates import character_error_rate, word_error_rate
from projects.coconut.speech.tokenizer import full_text
from projects.coconut.stages import Task, decode, evaluate_task, scores

EXAMPLES = 12  # rows of the gallery

log = logging.getLogger(__name__)


def evaluate(cfg: Config, module: Coconut, workspace: Workspace) -> dict[str, float]:
    """Metrics after the last task and, with the history of a run, over all tasks.

    An exported model has no history: it is judged by what it knows at the end. So is a run whose
    earlier tasks were evaluated on another split or with another search.
    """
    shared = Task(cfg)
    final = cfg.num_tasks - 1
    with evaluated(module, cfg.trainer.accelerator):
        predictions = evaluate_task(shared, module, final)
        metrics = last_metrics(shared, module, predictions)
        metrics |= unseen_speaker(shared, module, workspace)
    history = module.history
    if not history.comparable():
        log.warning(
            "this run evaluated its earlier tasks with another eval.split, beam_size, length_power"
            " or max_length: metrics over all tasks are left out. Train with these settings to have"
            " them"
        )
    elif history.complete():
        metrics |= all_tasks(shared, module, workspace)
    workspace.items("last_accuracy", history.correct[final].float().tolist())
    write_predictions(shared, predictions, workspace)
    workspace.gallery("generated", examples(shared, predictions))
    title = "pooled audio features of the test utterances"
    names = shared.test.spoken.class_names
    labels = shared.test.spoken.labels
    workspace.figure("features", embedding_map(history.features.cpu(), labels, names, title))
    return metrics


def last_metrics(
    shared: Task, module: Coconut, predictions: Sequence[SpokenTarget]
) -> dict[str, float]:
    """Accuracy and error rates on all classes after the last task."""
    spoken, slots = shared.test.spoken, shared.cfg.data.slots
    correct = module.history.correct[-1].cpu()
    outputs = [full_text(t, slots=slots) for t in predictions]
    gold = [full_text(t, slots=slots) for t in spoken.targets]
    said = [t.transcript for t in predictions]
    meant = [t.transcript for t in spoken.targets]
    metrics = {
        "last_accuracy": float(correct.double().mean()),
        "last_accuracy_chance": 1 / len({t.intent for t in spoken.targets}),
        "last_wer": word_error_rate(outputs, gold),
        "last_cer": character_error_rate(outputs, gold),
        "last_transcript_wer": word_error_rate(said, meant),
    }
    for task in range(shared.scenario.num_tasks):
        of_task = correct[shared.test_tasks == task]
        if len(of_task):
            metrics[f"last_accuracy_task{task + 1}"] = float(of_task.double().mean())
    return metrics


def all_tasks(shared: Task, module: Coconut, workspace: Workspace) -> dict[str, float]:
    """Avg Acc, Avg WER, backward transfer, forgetting; heat map and curves."""
    history = module.history
    results = history.results(shared.evaluated_tasks)
    matrix, counts = results.matrix(), results.counts()
    metrics = continual_metrics(matrix, counts)
    metrics["avg_accuracy"] = float(average_accuracy_items(results).mean())
    slots, targets = shared.cfg.data.slots, shared.test.spoken.targets
    words = torch.tensor([len(full_text(t, slots=slots).split()) for t in targets])
    said = torch.tensor([len(t.transcript.split()) for t in targets])
    wer = history.word_error_rates(history.edits_full, words)
    transcript_wer = history.word_error_rates(history.edits_transcript, said)
    metrics["avg_wer"] = sum(wer) / len(wer)
    metrics["avg_transcript_wer"] = sum(transcript_wer) / len(transcript_wer)
    cosine = history.cosine.cpu()
    if bool(cosine.isfinite().any()):
        metrics["old_class_cosine"] = float(cosine[cosine.isfinite()].mean())
    workspace.items("avg_accuracy", average_accuracy_items(results).tolist())
    figures(shared, matrix, counts, wer, workspace)
    return metrics


def figures(
    shared: Task, matrix: Tensor, counts: Tensor, wer: Sequence[float], workspace: Workspace
) -> None:
    """Task matrix as a heat map, accuracy of every task and of all seen classes, error rate."""
    names = task_names(shared)[: len(matrix)]
    if len(matrix) == 1:
        names = ["all classes"]
    workspace.figure("task_accuracy", task_heat_map(matrix, names, "intent accuracy"))
    curves: dict[str, Sequence[float]] = {
        name: matrix[:, j].tolist() for j, name in enumerate(names)
    }
    masked = {
        name: [v if k >= j else float("nan") for k, v in enumerate(values)]
        for j, (name, values) in enumerate(curves.items())
    }
    masked["all seen"] = accuracy_after_each_task(matrix, counts).tolist()
    workspace.figure("accuracy_curves", task_curves(masked, "intent accuracy"))
    workspace.figure("wer_curve", task_curves({"all seen": wer}, "word error rate"))


def task_names(shared: Task) -> list[str]:
    """Classes of each task, shortened."""
    names = shared.test.spoken.class_names
    texts = [", ".join(names[c] for c in part) for part in shared.scenario.classes]
    return [text if len(text) <= 24 else f"{text[:21]}..." for text in texts]


def unseen_speaker(shared: Task, module: Coconut, workspace: Workspace) -> dict[str, float]:
    """Accuracy after the last task on a speaker who is in no training part (spoken digits)."""
    cfg = shared.cfg
    if cfg.data.source not in ("digits", "synthetic"):
        return {}
    samples: Samples = shared.samples("unseen")
    rows = list(range(len(samples.spoken)))
    predictions, _ = decode(shared, module, samples, rows)
    correct, _, _ = scores(shared, samples, rows, predictions)
    workspace.items("unseen_speaker_accuracy", correct.float().tolist())
    chance = 1 / len({t.intent for t in samples.spoken.targets})
    return {
        "unseen_speaker_accuracy": float(correct.double().mean()),
        "unseen_speaker_accuracy_chance": chance,
    }


def write_predictions(
    shared: Task, predictions: Sequence[SpokenTarget], workspace: Workspace
) -> None:
    """predictions.jsonl of the last task in the format of SLURP's own scorer, with the texts."""
    rows: list[dict[str, Any]] = []
    for key, gold, target in zip(
        shared.test.spoken.keys, shared.test.spoken.targets, predictions, strict=True
    ):
        scenario, _, action = target.intent.partition("_")
        entities = [{"type": kind, "filler": value} for kind, value in target.slots]
        rows.append(
            {
                "file": key,
                "scenario": scenario,
                "action": action,
                "entities": entities,
                "intent": target.intent,
                "text": target.transcript,
                "gold_intent": gold.intent,
                "gold_text": gold.transcript,
            }
        )
    write_jsonl(workspace.folder(".") / "predictions.jsonl", rows)


def examples(shared: Task, predictions: Sequence[SpokenTarget]) -> list[dict[str, Any]]:
    """Evenly spaced test utterances with what was generated for them."""
    gold = shared.test.spoken.targets
    rows = torch.linspace(0, len(gold) - 1, min(EXAMPLES, len(gold))).long().tolist()
    return [
        {
            "query": f"{gold[i].intent} | {gold[i].transcript}",
            "results": [
                {
                    "item": f"{predictions[i].intent} | {predictions[i].transcript}",
                    "score": float(predictions[i].intent == gold[i].intent),
                    "correct": predictions[i].intent == gold[i].intent,
                }
            ],
        }
        for i in rows
    ]
