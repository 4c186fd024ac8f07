"""`TASK=summarisation|translation|code`: prompts, stop rules and metrics of the paper.

The fourth task, open-ended text, is `TASK=open_ended` (`projects.contrastive_search.tasks`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.config import UserError
from common.data.row_map.chunks import RowSeed
from common.decoding.language_model import LanguageModel, cut_note
from common.engine import workspace as ws
from common.engine.workspace import Workspace
from common.evaluation.tables import write_report
from common.files import write_text
from projects.contrastive_search.config import Config
from projects.contrastive_search.evaluate import policies
from projects.contrastive_search.harness import decode_side_by_side
from projects.contrastive_search.programs import passes
from projects.contrastive_search.stages import build_module, read_items

CUE = "Summarization:"
# what ends a function: a comment or docstring at the margin, two empty lines, the next definition
TERMINALS = re.compile(r"\n\n^#|^'''|\n\n\n|\n\ndef", re.MULTILINE)
ROUGES = ("rouge1", "rouge2", "rougeL")


def summarisation(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """XSum with shots: ROUGE-1, -2, -L (F1 x 100) of the text after the last cue.

    Raises:
        UserError: missing files, or items without ``context`` and ``completion``.
    """
    return _few_shot(cfg, workspace, "summarisation", after_cue, rouge)


def translation(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """IWSLT14 German to English with shots: BLEU of the answer's line.

    Raises:
        UserError: missing files, or items without ``context`` and ``completion``.
    """
    return _few_shot(cfg, workspace, "translation", str.strip, bleu)


def code(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """HumanEval: one completion a problem and draw, pass@1.

    ``samples_<method>.jsonl`` (``task_id``, ``completion``) is what the official harness reads.
    With
    `runner.execute` the programs run here, each in a process of its own with limits of time and
    memory, which is not a sandbox.

    Raises:
        UserError: missing file, or items without ``task_id`` and ``prompt``.
    """
    items = read_items(cfg, cfg.runner.file, "runner.file: HumanEval.jsonl")[: cfg.runner.limit]
    _check(items, ("task_id", "prompt", *(("test", "entry_point") if cfg.runner.execute else ())))
    lm = build_module(cfg).language_model()
    decoded = answers(cfg, lm, [item["prompt"] for item in items], workspace, start=False)
    runs: dict[str, list[dict[str, float]]] = {}
    for name, draws in decoded.items():
        rows = []
        for texts in draws:
            done = [(item, truncated(text)) for item, text in zip(items, texts, strict=True)]
            rows += [{"task_id": item["task_id"], "completion": text} for item, text in done]
            measures = {"words": float(np.mean([len(text.split()) for _, text in done]))}
            if cfg.runner.execute:
                programs = [
                    f"{i['prompt']}{text}\n{i['test']}\ncheck({i['entry_point']})\n"
                    for i, text in done
                ]
                passed = [passes(program, cfg.runner.timeout) for program in programs]
                measures["pass_at_1"] = 100 * float(np.mean(passed))
            runs.setdefault(name, []).append(measures)
        path = workspace.folder(".") / f"samples_{name}.jsonl"
        write_text(path, "".join(f"{_json(row)}\n" for row in rows))
    return _reported(averaged(runs), workspace, "code")


def few_shot_prompts(
    items: Sequence[Any], shots: Sequence[Any], number: int, split: int
) -> list[str]:
    """Shots ``[number (split - 1) : number split]``, each with its completion, then the item.

    Raises:
        UserError: too few shots for this split.

    >>> few_shot_prompts([{"context": "b=", "completion": ""}], [{"context": "a=", "completion": "A."}], 1, 1)
    ['a=A.b=']
    """
    examples = shots[number * (split - 1) : number * split]
    if len(examples) < number:
        raise UserError(
            f"runner.shots_file has {len(shots)} shots, split {split} of {number} needs more"
        )
    before = "".join(shot["context"] + shot["completion"] for shot in examples)
    return [before + item["context"] for item in items]


def after_cue(text: str) -> str:
    """A summary: what follows the last cue, should the answer repeat it."""
    return text.rsplit(CUE, 1)[-1].strip()


def truncated(text: str) -> str:
    r"""A completion up to where its function ends.

    >>> truncated("    return 1\n\ndef g():")
    '    return 1'
    """
    match = TERMINALS.search(text)
    return text[: match.start()] if match else text


def rouge(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """Mean F1 x 100, with stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGES, use_stemmer=True)
    scores = [scorer.score(gold, text) for text, gold in zip(predictions, golds, strict=True)]
    return {name: 100 * float(np.mean([row[name].fmeasure for row in scores])) for name in ROUGES}


def bleu(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU of texts as they are, as multi-bleu counts it: no tokenisation, no smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    return {"bleu": float(scorer.corpus_score(list(predictions), [list(golds)]).score)}


def answers(
    cfg: Config,
    lm: LanguageModel,
    prompts: Sequence[str],
    workspace: Workspace,
    *,
    stop: str | None = None,
    start: bool = True,
) -> dict[str, list[list[str]]]:
    """New text by method, draw and prompt: `eval.draws` of the methods that sample, one of others.

    A prompt that does not fit loses its beginning, but not its start token.
    """
    whole, bos = [], lm.tokenizer.bos_token_id if start else None
    for prompt in prompts:
        ids = lm.token_ids(prompt, special=start)
        whole.append(ids if bos is None or ids[0] == bos else [bos, *ids])
    rows = [lm.fitting(ids, cfg.runner.new_tokens) for ids in whole]
    if bos is not None:
        rows = [[bos, *row[1:]] for row in rows]
    note = cut_note(lm, whole, cfg.runner.new_tokens)
    if note is not None:
        workspace.say(note)
    seeds = [RowSeed(cfg.seed, i) for i in range(len(rows))]
    decoded = decode_side_by_side(
        lm,
        rows,
        policies(cfg),
        cfg.runner.new_tokens,
        seeds=seeds,
        draws=cfg.eval.draws,
        stop=stop,
        batch_size=cfg.eval.batch_size,
        progress=workspace.progress,
    )
    return {
        name: [
            [lm.finished(row, new, stop).text for row, new in zip(rows, draw, strict=True)]
            for draw in draws
        ]
        for name, draws in decoded.items()
    }


def averaged(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """``<method>_<metric>``: mean over the runs of a method; ``..._std`` for several runs.

    >>> averaged({"greedy": [{"bleu": 1.0}], "nucleus": [{"bleu": 2.0}, {"bleu": 4.0}]})
    {'greedy_bleu': 1.0, 'nucleus_bleu': 3.0, 'nucleus_bleu_std': 1.4142135623730951}
    """
    metrics: dict[str, float] = {}
    for name, draws in runs.items():
        for key in draws[0]:
            values = [run[key] for run in draws]
            metrics[f"{name}_{key}"] = float(np.mean(values))
            if len(values) > 1:
                metrics[f"{name}_{key}_std"] = float(np.std(values, ddof=1))
    return metrics


def _few_shot(
    cfg: Config,
    workspace: Workspace,
    task: str,
    tidy: Callable[[str], str],
    metric: Callable[[Sequence[str], Sequence[str]], dict[str, float]],
) -> dict[str, float]:
    """Answers with the shots of every split.

    Files in a folder of their own for shots and splits.
    """
    section = cfg.runner
    items = read_items(cfg, section.file, f"runner.file: the test items of {task}")[: section.limit]
    _check(items, ("context", "completion"))
    splits = (section.splits or [section.split]) if section.num_shots else [1]
    prompts = {split: _prompts(cfg, items, split, task) for split in splits}
    lm = build_module(cfg).language_model()
    golds = [item["completion"].strip() for item in items]
    runs: dict[str, list[dict[str, float]]] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        for name, draws in answers(cfg, lm, prompts[split], workspace, stop="\n").items():
            for draw, texts in enumerate(draws):
                said = [tidy(text) for text in texts]
                runs.setdefault(name, []).append(metric(said, golds))
                rows.setdefault(name, []).extend(
                    {"split": split, "draw": draw, "prediction": p, "reference": g}
                    for p, g in zip(said, golds, strict=True)
                )
    named = "-".join(map(str, splits)) if section.num_shots else ""
    folder = f"{section.num_shots}-shot" + (f"-split-{named}" if named else "")
    for name, predictions in rows.items():
        ws.write_json(workspace.folder(folder) / f"predictions_{name}.json", predictions)
    return _reported(averaged(runs), workspace, task, folder)


def _prompts(cfg: Config, items: Sequence[Any], split: int, task: str) -> list[str]:
    section, shots = cfg.runner, []
    name, place = section.shots_file, split
    if section.num_shots:
        if name is not None and "{split}" in name:
            name, place = name.replace("{split}", str(split)), 1
        shots = read_items(cfg, name, f"runner.shots_file: examples for {task}")
        _check(shots, ("context", "completion"), "runner.shots_file")
    return few_shot_prompts(items, shots, section.num_shots, place)


def _reported(
    metrics: dict[str, float], workspace: Workspace, task: str, folder: str = "."
) -> dict[str, float]:
    place = workspace.folder(folder)
    write_report(metrics, place, title=task)
    workspace.say((place / "metrics.md").read_text("utf-8"))
    return metrics


def _check(items: Sequence[Any], fields: Sequence[str], file: str = "runner.file") -> None:
    if not items:
        raise UserError(f"{file} has no items")
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not all(isinstance(item.get(f), str) for f in fields):
            raise UserError(f"item {number} of {file} needs {', '.join(fields)}")


def _json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)
