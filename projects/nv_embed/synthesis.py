"""Synthetic retrieval examples by a local language model: think of tasks, then write examples.

Source: Lee et al. 2024, "NV-Embed", section 4.1 (synthetic data), arXiv 2405.17428, after Wang et
al. 2024, "Improving Text Embeddings with Large Language Models", arXiv 2401.00368.
Deviation: the prompts are this project's own; the paper's are not printed.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.retrieval.records import EmbeddingRecord
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import Once, RowMap, map_rows
from common.data.tables import write_jsonl
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy
from common.decoding.prompts import Prompt, TextGenerator
from common.engine.workspace import Workspace
from common.evaluation.generation.measures import truncate
from projects.nv_embed.config import Config
from projects.nv_embed.data.records import EmbeddingTask, write_task

NAME = "synthetic_pairs"  # the set of `projects.nv_embed.data.registry`
CHUNK = 512  # answers in a file
TASK_WORDS = range(3, 41)  # of a usable task description
_TASK_STREAM, _EXAMPLE_STREAM, _CONSTRAINT_STREAM = 71, 72, 73
_STRING = r'"((?:[^"\\]|\\.)*)("?)'  # content, and the closing quote if it is there

DIFFICULTIES = ("a school child", "a student", "an expert")
CLARITIES = ("clear", "a little vague", "ambiguous")
BREADTHS = ("a topic that many people know", "a topic that few people know")


@dataclass(frozen=True)
class Format:
    """What is searched with, and what is found.

    Attributes:
        about: the two sides, for the first prompt.
        keys: of the JSON object: query, positive, hard negative.
        lengths: of the query, one is drawn.
        sides: what positive and negative are; ``{words}`` is drawn from `words`.
        words: lengths of the documents.
    """

    about: str
    keys: tuple[str, str, str]
    lengths: tuple[str, ...]
    sides: str
    words: tuple[int, ...] = ()


_LABELS = ("input_text", "label", "misleading_label")
_LABEL_SIDES = (
    "label fits the input text in every respect; misleading_label looks as if it did, but is wrong"
)
FORMATS = {
    "short-long": Format(
        "a short query finds a longer document",
        ("query", "positive_document", "hard_negative_document"),
        ("fewer than five words", "five to fifteen words", "one or two sentences"),
        "both documents have about {words} words; positive_document answers the query, "
        "hard_negative_document shares its words but does not answer it",
        (50, 100, 200, 400),
    ),
    "long-short": Format(
        "a long text finds a short label or title",
        _LABELS,
        ("about 50 words", "about 100 words", "about 250 words"),
        _LABEL_SIDES,
    ),
    "short-short": Format(
        "a short text finds another short text",
        _LABELS,
        ("fewer than five words", "five to fifteen words", "one sentence"),
        _LABEL_SIDES,
    ),
}


# -- prompts and answers -------------------------------------------------------------------------


def task_prompt(form: Format, count: int) -> str:
    """First step: think of tasks."""
    return (
        f"Think of {count} different text retrieval tasks in which {form.about}. Describe each in "
        "one English sentence which begins with a verb and says what is given and what is to be "
        f"found. Answer with a JSON list of {count} strings and with nothing else."
    )


def example_prompt(form: Format, task: str, rng: np.random.Generator) -> str:
    """Second step: write an example of a task under drawn constraints."""

    def draw(choices: Sequence[Any]) -> Any:
        return choices[int(rng.integers(len(choices)))]

    query, length = form.keys[0], draw(form.lengths)
    sides = form.sides.format(words=draw(form.words) if form.words else "")
    return (
        f"Write one English example of this text retrieval task: {task}\n"
        f"{query} has {length}, is {draw(CLARITIES)}, could be written by {draw(DIFFICULTIES)} and "
        f"is about {draw(BREADTHS)}; {sides}. Do not copy the task. Answer with one JSON object "
        f"with the keys {', '.join(form.keys)}, all strings, and with nothing else."
    )


def list_items(text: str) -> list[str]:
    """Strings of a JSON list that may be cut off or followed by other text.

    A string without its closing quote counts, up to its last sentence end, where it is the only
    one.

    >>> texts = ('["Find a.", "Find b."] I hope', '["Find a. And', '["a", "b')
    >>> tuple(map(list_items, texts))
    (['Find a.', 'Find b.'], ['Find a.'], ['a'])
    """
    strings = re.findall(_STRING, text.partition("[")[2], re.DOTALL)
    whole = [_plain(content) for content, end in strings if end]
    return whole or [truncate(_plain(content)) for content, _ in strings[:1]]


def object_fields(text: str, keys: Sequence[str]) -> dict[str, str]:
    """Non-empty string fields of a JSON object that may be cut off or followed by other text.

    A field without its closing quote counts up to its last sentence end.

    >>> object_fields('{"query": "a b", "label": "c. d', ["query", "label", "other"])
    {'query': 'a b', 'label': 'c.'}
    """
    fields = {}
    for key in keys:
        match = re.search(rf'"{key}"\s*:\s*{_STRING}', text, re.DOTALL)
        if match is not None:
            value = _plain(match[1]) if match[2] else truncate(_plain(match[1]))
            if value:
                fields[key] = value
    return fields


def opened(fields: dict[str, str], keys: Sequence[str]) -> str:
    """The JSON object so far, with the next missing field begun.

    >>> opened({"a": "x"}, ["a", "b"])
    '{"a": "x", "b": "'
    """
    missing = next(key for key in keys if key not in fields)
    head = json.dumps(fields, ensure_ascii=False)[:-1]
    return f'{head}{", " if fields else ""}"{missing}": "'


def _plain(content: str) -> str:
    """A JSON string's content, escapes resolved and white space collapsed."""
    try:
        text: str = json.loads(f'"{content}"', strict=False)
    except ValueError:  # an escape that JSON does not have
        text = content
    return " ".join(text.split())


# -- the two steps -------------------------------------------------------------------------------


def synthesize(cfg: Config, workspace: Workspace) -> Path:
    """Write ``tasks.jsonl`` and ``synthetic_pairs.jsonl`` (``TASK=synthesize``).

    Both steps can be stopped, continued and shared out. Each example has its task as its own
    instruction. What is malformed, incomplete or there already is dropped and counted in notes.txt.

    Returns:
        File of unified records, for ``data.sets.synthetic_pairs.path``; there once all shares are.

    Raises:
        UserError: absent weights, or a language model that wrote nothing usable.
    """
    section = cfg.synthesis
    folder = workspace.folder(".") if section.output is None else Path(section.output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.jsonl"
    model = Once(partial(_generator, cfg))
    tasks = {form: write_tasks(cfg, form, model, workspace) for form in section.formats}
    if None in tasks.values():
        return path
    rows = [
        {"format": form, "task": task} for form, members in tasks.items() for task in members or ()
    ]
    write_jsonl(folder / "tasks.jsonl", rows)
    written = [
        write_examples(cfg, form, members or (), model, workspace)
        for form, members in tasks.items()
    ]
    if None in written:
        return path
    records = [record for members in written for record in members or ()]
    kept = distinct_records(records)
    workspace.say(f"{len(records) - len(kept)} examples had a query that was there already")
    _need(kept, section.model, "example")
    write_task(path, EmbeddingTask(NAME, "retrieval", "", kept))
    workspace.say(f"{len(kept)} examples of {len(rows)} tasks by {section.model}: {path}")
    return path


def write_tasks(
    cfg: Config, form: str, model: Once[TextGenerator], workspace: Workspace
) -> list[str] | None:
    """Distinct usable task descriptions of a format; None if other shares have to finish first."""
    section = cfg.synthesis
    prompt = task_prompt(FORMATS[form], section.tasks_per_request)
    build = partial(task_writer, model, section.max_new_tokens)
    answers = _mapped(cfg, f"tasks {form}", build, [prompt] * section.requests, workspace)
    if answers is None:
        return None
    said = [task for answer in answers for task in answer]
    usable = [task for task in said if len(task.split()) in TASK_WORDS]
    distinct = list(dict.fromkeys(usable))
    workspace.say(f"{form}: {len(distinct)} tasks of {len(said)} that were written")
    _need(distinct, section.model, f"task of the format {form}")
    return distinct


def task_writer(model: Once[TextGenerator], max_new_tokens: int) -> RowFunction:
    """Requests of a chunk -> the tasks that each answer lists."""
    generate = model()

    def write(requests: Sequence[Any], seeds: Sequence[RowSeed]) -> list[list[str]]:
        prompts = [Prompt(request, '["', turn=True) for request in requests]
        rngs = [seed.rng(_TASK_STREAM) for seed in seeds]
        return [list_items(answer) for answer in generate(prompts, rngs, max_new_tokens)]

    return write


def write_examples(
    cfg: Config, form: str, tasks: Sequence[str], model: Once[TextGenerator], workspace: Workspace
) -> list[EmbeddingRecord] | None:
    """Usable examples of a format; the tasks take turns. None if shares have to finish first."""
    section, keys = cfg.synthesis, FORMATS[form].keys
    chosen = [tasks[i % len(tasks)] for i in range(section.examples)]
    build = partial(example_writer, model, form, section.max_new_tokens)
    answers = _mapped(cfg, f"examples {form}", build, chosen, workspace)
    if answers is None:
        return None
    records = []
    for task, fields in zip(chosen, answers, strict=True):
        texts = [fields.get(key, "") for key in keys]
        if all(texts) and len({text.casefold() for text in texts}) == len(keys):
            query, right, wrong = texts
            records.append(EmbeddingRecord(query, (right,), (wrong,), instruction=task))
    workspace.say(f"{form}: {len(records)} usable examples of {len(chosen)}")
    return records


def example_writer(model: Once[TextGenerator], form: str, max_new_tokens: int) -> RowFunction:
    """Tasks of a chunk -> the fields of an example of each.

    The model is asked to go on with missing fields. Each round has streams of its own: how far one
    is used up depends on the rest of the batch.
    """
    generate, keys = model(), FORMATS[form].keys

    def write(tasks: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, str]]:
        asked = [
            example_prompt(FORMATS[form], task, seed.rng(_CONSTRAINT_STREAM))
            for task, seed in zip(tasks, seeds, strict=True)
        ]
        written: list[dict[str, str]] = [{} for _ in tasks]
        for attempt in range(len(keys)):
            missing = [i for i, fields in enumerate(written) if len(fields) < len(keys)]
            if not missing:
                break
            prompts = [Prompt(asked[i], opened(written[i], keys), turn=True) for i in missing]
            rngs = [seeds[i].rng(_EXAMPLE_STREAM, attempt) for i in missing]
            answers = generate(prompts, rngs, max_new_tokens)
            for i, answer in zip(missing, answers, strict=True):
                written[i] = object_fields(answer, keys)
        return written

    return write


def distinct_records(records: Sequence[EmbeddingRecord]) -> list[EmbeddingRecord]:
    """The first record of each query, whatever its case."""
    by_text: dict[str, EmbeddingRecord] = {}
    for record in records:
        by_text.setdefault(record.query.casefold(), record)
    return list(by_text.values())


def _generator(cfg: Config) -> TextGenerator:
    section = cfg.synthesis
    return text_generator(
        section.model,
        _policy(cfg),
        cfg.generator,
        batch_size=section.batch_size,
        device=section.device,
    )


def _policy(cfg: Config) -> Policy:
    return Policy("nucleus", temperature=cfg.synthesis.temperature, top_p=cfg.synthesis.top_p)


def _mapped(
    cfg: Config,
    name: str,
    build: Callable[[], RowFunction],
    rows: Sequence[str],
    workspace: Workspace,
) -> list[Any] | None:
    section = cfg.synthesis
    settings = {
        **generator_settings(section.model, _policy(cfg), cfg.generator),
        "max_new_tokens": section.max_new_tokens,
        "batch_size": section.batch_size,
    }
    step = RowMap(name, build, settings, cfg.seed, CHUNK)
    place = workspace.folder(name.replace(" ", "-"))
    results = map_rows(step, rows, place, cfg.task, workspace.meter)
    workspace.say(f"{name}: {results.summary}")
    return list(results.rows()) if results.complete else None


def _need(items: Sequence[Any], model: str, what: str) -> None:
    if not items:
        raise UserError(
            f"synthesis.model={model} wrote no usable {what}: take a larger or instruction-tuned "
            "model, or raise synthesis.max_new_tokens, synthesis.requests or synthesis.examples"
        )
