"""`make run`: answers for the user's own texts, and annotated sets as corpora of semantic trees."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading
from common.data.lines import read_lines
from common.data.lookup import own_file
from common.data.tables import read_csv, write_jsonl
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.files import write_text
from projects.space2.config import Config
from projects.space2.dialogs.converters import from_intent, from_spans, from_tags
from projects.space2.dialogs.multiwoz import multiwoz
from projects.space2.dialogs.tasks import parse_line
from projects.space2.dialogs.turns import (
    Corpus,
    Dialog,
    Turn,
    read_dialogs,
    requests,
    span_labels,
)
from projects.space2.finetune import Finetune
from projects.space2.inference import DialogModel
from projects.space2.module import Space2


def classify(
    cfg: Config, workspace: Workspace, experiment: Experiment[ContrastiveModule]
) -> list[str]:
    """Intent of each line of a file, by the run's head or by examples.

    Also written to predictions.tsv.

    Raises:
        UserError: no trained run, no file, an empty one, or neither head nor examples.
    """
    from common.engine.trained import trained_module

    own = cfg.classify
    if own.input is None:
        raise UserError("classify.input: give a text file with one request per line")
    path = own_file(own.input, cfg.data.root, "requests")
    read = read_lines(path)
    texts = [line for line in read if line.strip()]
    if not texts:
        raise UserError(f"classify.input: {path} has no line with text")
    if len(texts) < len(read):
        workspace.say(f"{len(read) - len(texts)} blank lines of {path} are left out")
    examples: list[tuple[str, str]] = []
    if own.examples is not None:
        examples = filled(own_file(own.examples, cfg.data.root, "examples"), ("text", "label"))
    module, _ = trained_module(experiment, workspace, own.run, cfg.runs_dir)
    model = model_of(module)
    if cut := num_cut(model, texts):
        limit = model.network.texts.max_length
        workspace.say(
            f"{cut} of {len(texts)} requests are cut to their last {limit} tokens: the model reads"
            " no more"
        )
    # the network alone: its vectors come back to the CPU, where the head reads them
    with evaluated(model.network, cfg.trainer.accelerator):
        labels = model.classify(texts, examples)
    lines = [f"{label}\t{text}" for label, text in zip(labels, texts, strict=True)]
    write_text(workspace.folder(".") / "predictions.tsv", "\n".join(lines) + "\n")
    for line in lines:
        workspace.say(line)
    return labels


def predict(
    cfg: Config, workspace: Workspace, experiment: Experiment[ContrastiveModule]
) -> list[dict[str, Any]]:
    """Slots, parses or states of a file, by the run's head; also written to predictions.jsonl.

    Raises:
        UserError: no trained run, no file, an empty one, or a run that was not fine-tuned.
    """
    from common.engine.trained import trained_module

    own = cfg.predict
    if own.input is None:
        raise UserError("predict.input: give a file of requests, or of dialogues for states")
    path = own_file(own.input, cfg.data.root, "texts")
    module, _ = trained_module(experiment, workspace, own.run, cfg.runs_dir)
    model = model_of(module)
    if model.head is None or model.head.kind == "intent":
        raise UserError(
            "predict.run was not fine-tuned for slots, parses or states: TASK=classify answers with"
            " intents"
        )
    with evaluated(module, cfg.trainer.accelerator):
        if model.head.kind == "dst":
            rows = state_rows(model, read_dialogs(path), cfg.eval.batch_size)
        else:
            rows = parse_rows(model, read_lines(path), cfg.eval.batch_size)
    if not rows:
        raise UserError(f"predict.input: {path} has no text of a user")
    write_jsonl(workspace.folder(".") / "predictions.jsonl", rows)
    for row in rows:
        workspace.say(json.dumps(row, ensure_ascii=False))
    return rows


def parse_rows(model: DialogModel, lines: Sequence[str], batch_size: int) -> list[dict[str, Any]]:
    """Text, intent if the head has intents, and slots of every line that is not blank."""
    texts = [line for line in lines if line.strip()]
    rows: list[dict[str, Any]] = []
    for text, parse in zip(texts, model.parses(texts, batch_size) if texts else [], strict=True):
        intent = {"intent": parse.intent} if parse.intent else {}
        rows.append({"text": text, **intent, "slots": [slot._asdict() for slot in parse.slots]})
    return rows


def state_rows(
    model: DialogModel, dialogs: Sequence[Dialog], batch_size: int
) -> list[dict[str, Any]]:
    """Dialogue, text and state of every turn of a user."""
    states = model.states([dialog.turns for dialog in dialogs], batch_size)
    return [
        {"dialog": dialog.name, "text": turn.text, "state": state}
        for dialog, own in zip(dialogs, states, strict=True)
        for turn, state in zip((t for t in dialog.turns if t.user), own, strict=True)
    ]


def filled(path: Path, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """Two columns of a CSV or TSV file.

    Raises:
        UserError: missing columns, no row, or an empty cell in one.
    """
    rows = [tuple(str(row[name]) for name in columns) for row in read_csv(path, columns)]
    if not rows:
        raise UserError(f"{path} has no row below its header: {', '.join(columns)}")
    for number, row in enumerate(rows, start=1):
        for name, cell in zip(columns, row, strict=True):
            if not cell.strip():
                raise UserError(f"{path}, row {number}: no {name}: write one, or leave the row out")
    return [(first, second) for first, second in rows]


def num_cut(model: DialogModel, texts: Sequence[str]) -> int:
    """Requests of which only the end is read."""
    own = model.network.texts
    found = own.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return sum(len(ids) > own.max_length - 2 for ids in found)


def model_of(module: ContrastiveModule) -> DialogModel:
    """A trained module as it is used."""
    assert isinstance(module, Space2 | Finetune)
    head = module.head.eval() if isinstance(module, Finetune) else None
    return DialogModel(module.network.eval(), head)


def convert(cfg: Config, workspace: Workspace) -> Path:
    """An annotated set as ``<output>/<part>.json`` in the form that `data.source=corpora` reads.

    Raises:
        UserError: no input or output, a file of another form, an existing output, or a domain for
            states.
    """
    own = cfg.convert
    if own.input is None or own.output is None:
        raise UserError(
            "convert.input and convert.output: give a file and the folder of the corpus"
        )
    if own.domain is not None and own.kind == "states":
        raise UserError(
            "convert.domain has no effect on states, which name their domains: leave it out"
        )
    target = Path(own.output) / f"{own.part}.json"
    if target.exists():
        raise UserError(
            f"{target} exists: remove it, or give another convert.output or convert.part"
        )
    corpus = converted(own.kind, own_file(own.input, cfg.data.root, "annotations"), own.domain)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(as_json(corpus), ensure_ascii=False, indent=1))
    count = sum(len(d.turns) for d in corpus.dialogs)
    workspace.say(f"{target}: {len(corpus.dialogs)} dialogues, {count} turns")
    return target


def converted(kind: str, path: Path, domain: str | None = None) -> Corpus:
    """Intents (CSV), spans (Restaurants-8k JSON), parses (TOP) or states (MultiWOZ 2.1).

    Raises:
        UserError: a file of another form.
    """
    if kind == "intents":
        rows = filled(path, ("text", "category"))
        return requests(
            path.stem, (Turn(True, text, from_intent(intent, domain)) for text, intent in rows)
        )
    with reading(path, f"annotated set of convert.kind={kind}"):
        if kind == "states":
            return multiwoz(path)
        if kind == "parses":
            parsed = [parse_line(line) for line in read_lines(path) if line.strip()]
            return requests(
                path.stem,
                (
                    Turn(True, e.turns[0].text, from_tags(e.words, e.tags, e.intent, domain))
                    for e in parsed
                ),
            )
        rows = json.loads(path.read_text("utf-8-sig"))
        turns = [
            Turn(
                True,
                r["userInput"]["text"],
                from_spans(r["userInput"]["text"], span_labels(r), domain),
            )
            for r in rows
        ]
        return requests(path.stem, turns)


def as_json(corpus: Corpus) -> dict[str, object]:
    """A corpus in the released form."""
    return {
        dialog.name: {
            "turns": [
                {
                    "turn_id": i,
                    "role": "user" if t.user else "system",
                    "text": t.text,
                    "label": t.frame,
                }
                for i, t in enumerate(dialog.turns)
            ]
        }
        for dialog in corpus.dialogs
    }
