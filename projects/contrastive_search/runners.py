"""`make run TASK=summarisation|translation|code`: prompts, stop rules and metrics of the paper's tasks.

The fourth task, open-ended text, is `TASK=open_ended` (`projects.contrastive_search.tasks`).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from common.config import UserError
from common.data.row_map.mapper import RowSeed
from common.decoding.harness import decode_side_by_side
from common.decoding.language_model import LanguageModel
from common.engine import workspace as ws
from common.engine.workspace import Workspace
from common.evaluation.generation.programs import passes
from common.evaluation.tables import write_report
from projects.contrastive_search.config import Config
from projects.contrastive_search.evaluate import policies
from projects.contrastive_search.stages import build_module, read_items

CUE = "Summarization:"
# what ends a function: a comment or docstring at the margin, two empty lines, the next definition
TERMINALS = re.compile(r"\n\n^#|^'''|\n\n\n|\n\ndef", re.MULTILINE)
ROUGES = ("rouge1", "rouge2", "rougeL")


def summarisation(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """XSum with shots: ROUGE-1, -2, -L (F1 x 100) of what follows the last cue, up to the line's end.

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
    """HumanEval: one completion a problem, pass@1.

    ``samples_<method>.jsonl`` (``task_id``, ``completion``) is what the official harness reads. With
    `runner.execute` the programs run here, each in a process of its own with limits of time and
    memory, which is no sandbox.

    Raises:
        UserError: missing file, or items without ``task_id`` and ``prompt``.
    """
    items = read_items(cfg, cfg.runner.file, "runner.file: HumanEval.jsonl")[: cfg.runner.limit]
    _check(items, ("task_id", "prompt", *(("test", "entry_point") if cfg.runner.execute else ())))
    lm = build_module(cfg).language_model()
    found = answers(cfg, lm, [item["prompt"] for item in items], workspace, start=False)
    metrics: dict[str, float] = {}
    for name, texts in found.items():
        completions = [truncated(text) for text in texts]
        rows = [
            {"task_id": item["task_id"], "completion": text}
            for item, text in zip(items, completions, strict=True)
        ]
        path = workspace.folder(".") / f"samples_{name}.jsonl"
        ws.write_text(path, "".join(f"{_json(row)}\n" for row in rows))
        if cfg.runner.execute:
            programs = [
                f"{i['prompt']}{text}\n{i['test']}\ncheck({i['entry_point']})\n"
                for i, text in zip(items, completions, strict=True)
            ]
            metrics[f"{name}_pass_at_1"] = 100 * float(
                np.mean([passes(p, cfg.runner.timeout) for p in programs])
            )
        metrics[f"{name}_words"] = float(np.mean([len(text.split()) for text in completions]))
    return _reported(metrics, workspace, "code")


def few_shot_prompts(
    items: Sequence[Any], shots: Sequence[Any], number: int, split: int
) -> list[str]:
    """Shots ``[number (split - 1) : number split]``, context and completion each, then an item's context.

    Raises:
        UserError: too few shots for this split.

    >>> few_shot_prompts([{"context": "b=", "completion": ""}], [{"context": "a=", "completion": "A."}], 1, 1)
    ['a=A.b=']
    """
    own = shots[number * (split - 1) : number * split]
    if len(own) < number:
        raise UserError(
            f"runner.shots_file has {len(shots)} shots, split {split} of {number} needs more"
        )
    before = "".join(shot["context"] + shot["completion"] for shot in own)
    return [before + item["context"] for item in items]


def after_cue(text: str) -> str:
    """A summary: what follows the last cue, should the answer repeat it."""
    return text.rsplit(CUE, 1)[-1].strip()


def truncated(text: str) -> str:
    r"""A completion up to where its function ends.

    >>> truncated("    return 1\n\ndef g():")
    '    return 1'
    """
    found = TERMINALS.search(text)
    return text[: found.start()] if found else text


def rouge(predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """Mean F1 x 100, with stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGES, use_stemmer=True)
    found = [scorer.score(gold, text) for text, gold in zip(predictions, golds, strict=True)]
    return {name: 100 * float(np.mean([row[name].fmeasure for row in found])) for name in ROUGES}


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
) -> dict[str, list[str]]:
    """New text of every method for every prompt; the first draw of those that sample."""
    rows = []
    for prompt in prompts:
        ids, bos = lm.token_ids(prompt, special=start), lm.tokenizer.bos_token_id
        if start and bos is not None and ids[0] != bos:
            ids = [bos, *ids]
        rows.append(lm.fitting(ids, cfg.runner.new_tokens))
    seeds = [RowSeed(cfg.seed, i) for i in range(len(rows))]
    found = decode_side_by_side(
        lm, rows, policies(cfg), cfg.runner.new_tokens, seeds=seeds, stop=stop,
        batch_size=cfg.eval.batch_size, progress=workspace.progress,
    )  # fmt: skip
    return {
        name: [lm.finished(row, new, stop).text for row, new in zip(rows, draws[0], strict=True)]
        for name, draws in found.items()
    }


def _few_shot(
    cfg: Config,
    workspace: Workspace,
    task: str,
    tidy: Callable[[str], str],
    metric: Callable[[Sequence[str], Sequence[str]], dict[str, float]],
) -> dict[str, float]:
    section = cfg.runner
    items = read_items(cfg, section.file, f"runner.file: the test items of {task}")[: section.limit]
    shots = (
        read_items(cfg, section.shots_file, f"runner.shots_file: examples for {task}")
        if section.num_shots
        else []
    )
    _check([*items, *shots], ("context", "completion"))
    prompts = few_shot_prompts(items, shots, section.num_shots, section.split)
    lm = build_module(cfg).language_model()
    golds = [item["completion"].strip() for item in items]
    metrics: dict[str, float] = {}
    for name, texts in answers(cfg, lm, prompts, workspace, stop="\n").items():
        predictions = [tidy(text) for text in texts]
        metrics |= {f"{name}_{k}": v for k, v in metric(predictions, golds).items()}
        rows = [{"prediction": p, "reference": g} for p, g in zip(predictions, golds, strict=True)]
        ws.write_json(workspace.folder(".") / f"predictions_{name}.json", rows)
    return _reported(metrics, workspace, task)


def _reported(metrics: dict[str, float], workspace: Workspace, task: str) -> dict[str, float]:
    write_report(metrics, workspace.folder("."), title=task)
    workspace.say((workspace.path / "metrics.md").read_text("utf-8"))
    return metrics


def _check(items: Sequence[Any], fields: Sequence[str]) -> None:
    if not items:
        raise UserError("runner.file holds no items")
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not all(isinstance(item.get(f), str) for f in fields):
            raise UserError(
                f"item {number} of runner.file or runner.shots_file needs {', '.join(fields)}"
            )


def _json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False)
