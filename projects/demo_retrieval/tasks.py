"""`make run`: answers with your own bank, few-shot runs over draws, bank and manifest."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError, load, to_dict
from common.data.tables import read_jsonl
from common.engine.lifecycle.run import read_meta
from common.engine.lifecycle.settings import resolved
from common.engine.workspace import Workspace, read_json, write_json
from common.files import write_text
from projects.demo_retrieval.bank import write_bank
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.inference import Answerer
from projects.demo_retrieval.stages import make_bank, read_tasks
from projects.demo_retrieval.template import from_row

Train = Callable[[str, str, Sequence[str]], Path]


def answer(cfg: Config, workspace: Workspace) -> list[str]:
    """Answers to ``answer.question`` or a file of questions, by an exported model; answers.jsonl.

    A context that is cut, and words that the retriever does not know, are said.

    Raises:
        UserError: no folder, nothing to answer, or a damaged file.
    """
    settings = cfg.answer
    if settings.run is None or (settings.input is None) == (settings.question is None):
        raise UserError(
            "set answer.run, a folder written by make export, and answer.question=... or "
            "answer.input=questions.jsonl (question, context, options)"
        )
    rows: list[Mapping[str, Any]] = [{"question": settings.question, "context": settings.context}]
    if settings.input is not None:
        rows = list(read_jsonl(Path(settings.input).expanduser(), ("question",)))
    read = [
        from_row(r, f"{settings.input or 'answer.question'}, row {i + 1}")
        for i, r in enumerate(rows)
    ]
    if any(not e.question for e in read):
        raise UserError(f"{settings.input or 'answer.question'} contains an empty question")
    # no task and no id: nothing of the bank is the question itself, but for equal texts
    examples = [e._replace(task="", answers=(), id="") for e in read]
    if not examples:
        raise UserError(f"{settings.input} has no question")
    model = Answerer(settings.run, settings.bank)
    answers, demonstrations = model.answered(examples)
    strange, arbitrary = model.unknown(examples)
    if strange:
        workspace.say(
            f"{strange} demonstrations have no word that the retriever knows and are found by none"
            " of theirs: use a model with retriever.kind=dense"
        )
    lines = []
    for i, (example, text, shown) in enumerate(zip(examples, answers, demonstrations, strict=True)):
        workspace.say(f"{example.question} {example.context} -> {text or '-'}")
        cut, whole = model.unread(example, shown)
        if cut:
            workspace.say(
                f"    question {i + 1}: the last {cut} of {whole} tokens of the context are not"
                " read, the model was trained with"
                f" data.max_source={model.module.cfg.data.max_source}"
            )
        if arbitrary[i]:
            workspace.say(
                f"    question {i + 1}: the retriever knows none of its words, so its"
                " demonstrations are arbitrary"
            )
        for d in shown:
            workspace.say(
                f"    {d.task}: {d.question} {d.context} -> {d.answers[0] if d.answers else '-'}"
            )
        lines.append(
            {
                "question": example.question,
                "context": example.context,
                "answer": text,
                "context_tokens_cut": cut,
                "demonstrations": [d._asdict() for d in shown],
            }
        )
    path = workspace.folder(".") / "answers.jsonl"
    write_text(path, "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
    return answers


def prepare(cfg: Config, workspace: Workspace) -> Path:
    """Converts all tasks: bank.jsonl, manifest.json, and the index in ``retriever.cache``."""
    tasks = read_tasks(cfg)
    folder = workspace.folder(".")
    write_json(folder / "manifest.json", tasks.manifest())
    write_bank(folder / "bank.jsonl", tasks.bank)
    bank = make_bank(cfg, tasks)
    if bank is not None:
        workspace.say(f"index {bank.digest()}: {tuple(bank.vectors.shape)}")
    workspace.say(
        f"{folder / 'bank.jsonl'}: {len(tasks.bank)} demonstrations, use it with data.bank_file"
    )
    return folder / "bank.jsonl"


def few_shot(cfg: Config, workspace: Workspace, train: Train | None = None) -> dict[str, Any]:
    """Fine-tunes on every draw of ``few_shot.seeds``, and writes mean and standard deviation.

    Args:
        cfg: the config of each run, but for its draw.
        workspace: of the task; the runs lie below it, few_shot.json alongside them.
        train: trains a config with overrides and returns the run folder.

    Raises:
        UserError: fewer than two draws, one that is named twice, or a draw of an earlier call with
            other settings.
    """
    from common.engine.run import train as engine_train

    settings, train = cfg.few_shot, train or engine_train
    if len(set(settings.seeds)) < 2:
        raise UserError("few_shot.seeds needs at least two different draws")
    if len(set(settings.seeds)) < len(
        settings.seeds
    ):  # the same numbers twice would narrow the deviation
        raise UserError(f"few_shot.seeds={settings.seeds} names a draw twice: name each once")
    values: dict[str, list[float]] = {}
    for seed in settings.seeds:
        words = [
            *as_overrides(cfg),
            f"data.split_seed={seed}",
            f"runs_dir={workspace.folder('runs')}",
            f"run_id=draw-{seed}",
        ]
        if settings.run is not None:
            # the export keeps its own dropout, which a pair of encoder and decoder has no single
            # place for
            words += [
                f"model.pretrained={settings.run}",
                "model.encoder=null",
                "model.config=null",
                "model.dropout=null",
                "meta=false",
                "denoise.max_steps=0",
            ]
        place = workspace.folder("runs") / workspace.project / workspace.config / f"draw-{seed}"
        run = (
            place
            if _finished(place, workspace, words)
            else train(workspace.project, workspace.config, words)
        )
        for name, value in read_json(run / "metrics.json").items():
            values.setdefault(name, []).append(float(value))
    summary = {
        name: {"mean": statistics.mean(v), "sd": statistics.stdev(v), "values": v}
        for name, v in values.items()
        if len(v) == len(settings.seeds)
    }
    write_json(
        workspace.folder(".") / "few_shot.json", {"seeds": settings.seeds, "metrics": summary}
    )
    for name, entry in summary.items():
        workspace.say(
            f"{name}: {entry['mean']:.4f} +- {entry['sd']:.4f} ({len(settings.seeds)} draws)"
        )
    return summary


def _finished(place: Path, workspace: Workspace, words: list[str]) -> bool:
    """Whether a draw has its numbers; one that was begun gets the word that continues it.

    Raises:
        UserError: it was made with other settings.
    """
    if not (place / "meta.json").is_file():
        return False
    meta = read_meta(place)
    now = resolved(load(Config, workspace.project, workspace.config, words))
    changed = set(_words(now)) ^ set(_words(meta["resolved"]))
    if other := sorted({word.partition("=")[0] for word in changed}):
        raise UserError(
            f"{place} was made with other values of {', '.join(other)}: undo the change, or move"
            " the folder away"
        )
    if "finished" in meta:
        return True
    words.append(f"resume={place.name}")
    return False


def as_overrides(cfg: Config) -> list[str]:
    """Every value of a config as ``a.b=value``, without those that name a run."""
    names = ("runs_dir", "run_id", "resume", "answer", "few_shot")
    return _words({k: v for k, v in to_dict(cfg).items() if k not in names})


def _words(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    words = []
    for key, value in node.items():
        inner = isinstance(value, dict) and bool(value)
        words += (
            _words(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}={json.dumps(value)}"]
        )
    return words
