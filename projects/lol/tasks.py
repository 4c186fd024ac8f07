"""`make run TASK=generate|strategyqa|gsm8k|score|hallucinate`: the user's own models and files."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import UserError
from common.data.lines import read_lines
from common.data.lookup import data_root, require
from common.data.offline import content_digest
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.samplers import sample_rng
from common.data.tables import read_jsonl, write_jsonl
from common.decoding.generators import text_generator
from common.decoding.options import ServerConfig
from common.decoding.prompts import Prompt, TextGenerator
from common.engine import workspace as ws
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.generation.measures import normalized_words
from common.evaluation.tables import write_report
from projects.lol.config import Config
from projects.lol.decoder import Decoder
from projects.lol.evaluate import contrasts, evaluate
from projects.lol.module import LOL
from projects.lol.prompts import read_shots
from projects.lol.reasoning import gold_number, number, yes_or_no
from projects.lol.stages import build_decoder, build_original, with_amateur

EXPLAINED = 3  # answers that are shown token by token
CHUNK = 64  # questions in a file of finished answers
_DRAW_STREAM, _WRITE_STREAM = 93, 94


def generate(cfg: Config, workspace: Workspace, experiment: Experiment[LOL]) -> dict[str, float]:
    """Answers to a file of questions by one method (``TASK=generate``).

    Writes ``answers.jsonl``, and ``tokens.json``: of the first answers every token's score, chosen
    layer and likeliest tokens of original, amateur and both together.

    Raises:
        UserError: no questions, no such run or method, or a prompt that does not fit.
    """
    section = cfg.generate
    if section.file is None:
        raise UserError("set generate.file: a text file with one question per line")
    questions = [
        line.strip() for line in read_lines(Path(section.file).expanduser()) if line.strip()
    ]
    if not questions:
        raise UserError(f"{section.file} has no question: one per line")
    decoder = decoder_of(cfg, workspace, experiment)
    answers = written(cfg, decoder, questions[: section.limit])
    rows = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=False)]
    folder = workspace.folder(".")
    write_jsonl(folder / "answers.jsonl", rows)
    explained = [row for row in rows if row["answer"]][:EXPLAINED]
    ws.write_json(folder / "tokens.json", [_explained(decoder, **row) for row in explained])
    workspace.say("\n".join(f"{row['question']}\n  {row['answer']}" for row in rows))
    return {"answers": float(len(rows)), "words": float(np.mean([len(a.split()) for a in answers]))}


def strategyqa(cfg: Config, workspace: Workspace, experiment: Experiment[LOL]) -> dict[str, float]:
    """StrategyQA: chain of thought, accuracy of yes and no (``TASK=strategyqa``).

    Raises:
        UserError: missing file, rows without question and true or false as answer, or
            demonstrations of another set.
    """
    layout = "a JSON list of {question, answer: true or false} (strategyqa_train.json)"
    rows = _set(cfg, layout, "allenai's StrategyQA")
    for i, row in enumerate(rows):
        if not isinstance(row["question"], str) or not isinstance(row["answer"], bool):
            raise UserError(f"{cfg.generate.file}, row {i}: expected {layout}")
    shots = _shots(cfg, _says_yes_or_no, "the answer is yes. (or no.)")
    return _accuracy(
        cfg, workspace, experiment, rows, shots, lambda text, gold: yes_or_no(text) == gold
    )


def gsm8k(cfg: Config, workspace: Workspace, experiment: Experiment[LOL]) -> dict[str, float]:
    """GSM8K: chain of thought, accuracy of the final number (``TASK=gsm8k``).

    Raises:
        UserError: missing file, an answer without ``#### number``, or demonstrations of another
            set.
    """
    layout = "JSON lines of {question, answer: '... #### number'} (test.jsonl)"
    rows = _set(cfg, layout, "openai/grade-school-math")
    for i, row in enumerate(rows):
        if not isinstance(row["question"], str) or gold_number(str(row["answer"])) is None:
            raise UserError(f"{cfg.generate.file}, row {i}: expected {layout}")
    shots = _shots(cfg, lambda answer: number(answer) is not None, "The answer is <number>.")
    return _accuracy(
        cfg,
        workspace,
        experiment,
        rows,
        shots,
        lambda text, gold: number(text) == gold_number(gold),
    )


def score_off_the_shelf(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The evaluation with `model.pretrained` and `amateur.path` as they are.

    No run (``TASK=score``).

    Raises:
        UserError: absent weights, or methods that need an amateur which is not there.
    """
    if cfg.base.steps:
        raise UserError("base.steps > 0 trains its own original: use `make train`, or base.steps=0")
    plain = cfg if cfg.amateur.path else replace(cfg, amateur=replace(cfg.amateur, kind="none"))
    with torch.inference_mode():
        metrics = evaluate(cfg, with_amateur(plain, *build_original(cfg)), workspace)
    write_report(metrics, workspace.folder("."), title="multiple choice")
    workspace.say((workspace.path / "metrics.md").read_text("utf-8"))
    return metrics


def hallucinate(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """False answers to questions by any causal LM, for the amateur (``TASK=hallucinate``).

    Can be stopped, continued and shared out (``task.shard=0/4``). Writes ``hallucinated.jsonl`` in
    the form that `data.file` reads; a question of which no draw passes the filter is left out, and
    counted.

    Raises:
        UserError: missing file or weights, no rows, or one whose question, answer or knowledge is
            no text.
    """
    section = cfg.hallucinate
    if section.file is None:
        raise UserError(
            "set hallucinate.file: JSON lines of question, answer and perhaps knowledge"
        )
    rows = read_jsonl(Path(section.file).expanduser(), ("question", "answer"))
    if not rows:
        raise UserError(f"{section.file} has no question")
    for i, row in enumerate(rows, start=1):
        texts = (row["question"], row["answer"], row.get("knowledge") or "")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{section.file}, row {i}: question, answer and knowledge are texts, in quotation"
                " marks"
            )
    model = section.model or cfg.model.pretrained
    settings = {
        "model": model,
        "policy": repr(section.decoder.policy()),
        "new_tokens": section.new_tokens,
        "attempts": section.attempts,
        "overlap": section.overlap,
    }
    step = RowMap("hallucinate", partial(hallucinator, cfg, model), settings, cfg.seed, CHUNK)
    place = workspace.folder(f"rows/{content_digest([repr(settings), json.dumps(rows)])[:12]}")
    mapped = map_rows(step, rows, place, cfg.task, workspace.meter)
    workspace.say(f"hallucinate: {mapped.summary}")
    if not mapped.complete:
        return {}
    hallucinated = [
        {"instruction": row["question"], "input": "", "output": answer, "history": []}
        for row, answer in zip(rows, mapped.rows(), strict=True)
        if answer is not None
    ]
    output = workspace.folder(".") / "hallucinated.jsonl"
    write_jsonl(output, hallucinated)
    workspace.say(
        f"{output}: {len(hallucinated)} of {len(rows)} questions; of the others no draw passed the filter "
        "(hallucinate.attempts, hallucinate.overlap)"
    )
    return {"questions": float(len(rows)), "kept": float(len(hallucinated))}


def hallucinator(cfg: Config, model: str) -> RowFunction:
    """Rows of question and answer -> a false answer, or None."""
    section = cfg.hallucinate
    write = text_generator(model, section.decoder.policy(), ServerConfig(), stop="\n")
    return partial(false_answers, write, section.new_tokens, section.attempts, section.overlap)


def false_answers(
    write: TextGenerator,
    new_tokens: int,
    attempts: int,
    overlap: float,
    rows: Sequence[Any],
    seeds: Sequence[RowSeed],
) -> list[str | None]:
    """One false answer a row that passes `is_false`, within so many draws; else None."""
    answers: list[str | None] = [None] * len(rows)
    for attempt in range(attempts):
        open_rows = [i for i, answer in enumerate(answers) if answer is None]
        if not open_rows:
            break
        prompts = [Prompt(false_prompt(rows[i]), turn=True) for i in open_rows]
        rngs = [seeds[i].rng(_WRITE_STREAM, attempt) for i in open_rows]
        for i, text in zip(open_rows, write(prompts, rngs, new_tokens), strict=True):
            answer = text.strip()
            if is_false(answer, rows[i]["answer"], overlap):
                answers[i] = answer
    return answers


def false_prompt(row: Mapping[str, str]) -> str:
    """What asks for a plausible answer that is wrong."""
    background = f"Background: {row['knowledge']}\n" if row.get("knowledge") else ""
    return (
        f"{background}Question: {row['question']}\nCorrect answer: {row['answer']}\n\nWrite one sentence"
        " that answers the question wrongly and yet sounds right: in the style and length of the"
        " correct answer, but with a wrong name, date or relation, or a common misconception. Do"
        " not refuse and do not explain."
    )


def is_false(answer: str, truth: str, overlap: float) -> bool:
    """Whether an answer is none that repeats or holds the true one.

    >>> is_false("in 1969", "In 1969.", 0.8), is_false("in 1974", "In 1969.", 0.8), is_false("", "x", 0.8)
    (False, True, False)
    """
    words, true = normalized_words(answer), normalized_words(truth)
    if not words or f" {' '.join(true)} " in f" {' '.join(words)} ":
        return False
    return len({*words} & {*true}) < overlap * max(1, len({*true}))


def decoder_of(cfg: Config, workspace: Workspace, experiment: Experiment[LOL]) -> Decoder:
    """Decoder of `generate.method` with the module of `generate.run`, or the original alone.

    Raises:
        UserError: no such run or method.
    """
    section = cfg.generate
    method = cfg.methods.get(section.method)
    if method is not None and contrasts(method) and not method.alpha_plausibility:
        warnings.warn(
            f"methods.{section.method}.alpha_plausibility=0: it writes whatever the contrast"
            " prefers, however unlikely; ICD and DoLa generate with 0.1",
            stacklevel=2,
        )
    if section.run == "pretrained":
        plain = cfg if cfg.amateur.path else replace(cfg, amateur=replace(cfg.amateur, kind="none"))
        module = with_amateur(plain, *build_original(cfg))
    else:
        module = trained_module(experiment, workspace, section.run, cfg.runs_dir)[0]
    return build_decoder(cfg, module.eval(), section.method)


def written(cfg: Config, decoder: Decoder, questions: Sequence[str]) -> list[str]:
    """Answers by the decoder of `generate.decoder`; each question has its own random stream."""
    section = cfg.generate
    rngs = [sample_rng(cfg.seed, 0, i, _DRAW_STREAM) for i in range(len(questions))]
    with torch.inference_mode():
        return decoder.generate(
            questions,
            new_tokens=section.new_tokens,
            policy=section.decoder.policy(),
            rngs=rngs,
            stop=section.stop,
        )


def _accuracy(
    cfg: Config,
    workspace: Workspace,
    experiment: Experiment[LOL],
    rows: Sequence[Mapping[str, Any]],
    shots: Sequence[tuple[str, str]] | None,
    right: Callable[[str, Any], bool],
) -> dict[str, float]:
    decoder = decoder_of(cfg, workspace, experiment)
    if shots is not None:
        decoder.prompts.shots = shots
    texts = written(cfg, decoder, [row["question"] for row in rows])
    marks = [right(text, row["answer"]) for text, row in zip(texts, rows, strict=True)]
    out = [
        {**row, "written": text, "right": mark}
        for row, text, mark in zip(rows, texts, marks, strict=True)
    ]
    write_jsonl(workspace.folder(".") / "answers.jsonl", out)
    metrics = {"accuracy": 100 * float(np.mean(marks))}
    write_report(metrics, workspace.folder("."), title=cfg.generate.method)
    workspace.say((workspace.path / "metrics.md").read_text("utf-8"))
    return metrics


def _says_yes_or_no(answer: str) -> bool:
    _, marker, rest = answer.lower().partition("answer is")
    return bool(marker) and rest.partition(".")[0].strip() in ("yes", "no")


def _shots(cfg: Config, fits: Callable[[str], bool], ending: str) -> list[tuple[str, str]] | None:
    """Demonstrations of ``generate.shots_file``.

    An answer that this set's reader cannot read is refused.
    """
    name = cfg.generate.shots_file
    if name is None:
        return None
    shots = read_shots(cfg, name)
    for i, (_, answer) in enumerate(shots, start=1):
        if not fits(answer):
            raise UserError(
                f"generate.shots_file={name}, row {i}: the answer does not end in {ending!r}, so"
                " these are demonstrations of another set"
            )
    return shots


def _set(cfg: Config, layout: str, source: str) -> list[dict[str, Any]]:
    if cfg.generate.file is None:
        raise UserError(f"set generate.file: {layout}; from {source}")
    path = data_root(cfg.data.root) / cfg.generate.file
    require(path, what="the set", layout=layout, source=source, size="5 MB")
    if path.suffix == ".json":
        try:
            rows = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON: {error}") from error
    else:
        rows = read_jsonl(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: expected {layout}")
    for i, row in enumerate(rows):
        if not (isinstance(row, dict) and {"question", "answer"} <= row.keys()):
            raise UserError(f"{path}, row {i}: expected {layout}")
    return rows[: cfg.generate.limit]


def _explained(decoder: Decoder, question: str, answer: str) -> dict[str, Any]:
    explanation, words = decoder.explain(question, answer), decoder.models.lm.tokenizer
    tokens = []
    for i, token in enumerate(explanation.tokens):
        row: dict[str, Any] = {"token": words.decode([token]), "score": explanation.scores[i]}
        if explanation.layers:
            row |= {"layer": explanation.layers[i], "divergences": explanation.divergences[i]}
        row |= {f"top_{k}": [words.decode([t]) for t in v[i]] for k, v in explanation.top.items()}
        tokens.append(row)
    return {"question": question, "answer": answer, "tokens": tokens}
