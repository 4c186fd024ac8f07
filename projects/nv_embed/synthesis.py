"""Synthetic retrieval examples by a local language model: think of tasks, then write examples.

Source: Lee et al. 2024, "NV-Embed", section 4.1 (synthetic data), arXiv 2405.17428, after Wang et al.
2024, "Improving Text Embeddings with Large Language Models", arXiv 2401.00368.
Deviation: the prompts are this project's own; the paper's are not printed.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.offline import OfflineCache
from common.data.retrieval.records import EmbeddingRecord, EmbeddingTask, write_task
from common.data.samplers import sample_rng
from common.data.tables import write_jsonl
from common.decoding.language_model import LanguageModel
from common.decoding.policies import Policy
from common.engine.workspace import Workspace
from common.evaluation.generation.measures import truncate
from projects.nv_embed.config import Config

NAME = "synthetic_pairs"  # the set of `common.data.retrieval.registry`
BLOCK = 512  # answers per block of the offline cache
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


def framed(tokenizer: Any, prompt: str) -> str:
    """A prompt as a turn of the model's chat template; without one, before a line "Answer:"."""
    if getattr(tokenizer, "chat_template", None) is None:
        return f"{prompt}\n\nAnswer:\n"
    turn = [{"role": "user", "content": prompt}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")  # which tokenising adds again


def list_items(text: str) -> list[str]:
    """Strings of a JSON list that may be cut off or followed by other text.

    A string without its closing quote counts, up to its last sentence end, where it is the only one.

    >>> list_items('["Find a.", "Find b."] I hope'), list_items('["Find a. And'), list_items('["a", "b')
    (['Find a.', 'Find b.'], ['Find a.'], ['a'])
    """
    found = re.findall(_STRING, text.partition("[")[2], re.DOTALL)
    whole = [_plain(content) for content, end in found if end]
    return whole or [truncate(_plain(content)) for content, _ in found[:1]]


def object_fields(text: str, keys: Sequence[str]) -> dict[str, str]:
    """Non-empty string fields of a JSON object that may be cut off or followed by other text.

    A field without its closing quote counts up to its last sentence end.

    >>> object_fields('{"query": "a b", "label": "c. d', ["query", "label", "other"])
    {'query': 'a b', 'label': 'c.'}
    """
    found = {}
    for key in keys:
        match = re.search(rf'"{key}"\s*:\s*{_STRING}', text, re.DOTALL)
        if match is not None:
            value = _plain(match[1]) if match[2] else truncate(_plain(match[1]))
            if value:
                found[key] = value
    return found


def opened(found: dict[str, str], keys: Sequence[str]) -> str:
    """The JSON object so far, with the next missing field begun.

    >>> opened({"a": "x"}, ["a", "b"])
    '{"a": "x", "b": "'
    """
    missing = next(key for key in keys if key not in found)
    head = json.dumps(found, ensure_ascii=False)[:-1]
    return f'{head}{", " if found else ""}"{missing}": "'


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

    Both can be stopped and continued; answers are stored by the hash of their prompt. Each example
    has its task as its own instruction. What is malformed, incomplete or there already is dropped and
    counted in notes.txt.

    Returns:
        File of unified records, for ``data.sets.synthetic_pairs.path``.

    Raises:
        UserError: absent weights, or a language model that wrote nothing usable.
    """
    section = cfg.synthesis
    lm = LanguageModel.from_pretrained(section.model, section.device)
    writer = _Writer(cfg, lm, workspace)
    folder = workspace.folder(".") if section.output is None else Path(section.output)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {form: writer.tasks(form) for form in section.formats}
    rows = [{"format": form, "task": task} for form, own in tasks.items() for task in own]
    write_jsonl(folder / "tasks.jsonl", rows)
    records = [record for form, own in tasks.items() for record in writer.examples(form, own)]
    kept = distinct_records(records)
    workspace.note(f"{len(records) - len(kept)} examples had a query that was there already")
    _need(kept, section.model, "example")
    path = folder / f"{NAME}.jsonl"
    write_task(path, EmbeddingTask(NAME, "retrieval", "", kept))
    workspace.note(f"{len(kept)} examples of {len(rows)} tasks by {section.model}: {path}")
    return path


def distinct_records(records: Sequence[EmbeddingRecord]) -> list[EmbeddingRecord]:
    """The first record of each query, whatever its case."""
    found: dict[str, EmbeddingRecord] = {}
    for record in records:
        found.setdefault(record.query.casefold(), record)
    return list(found.values())


class _Writer:
    """Asks the language model and keeps its answers."""

    def __init__(self, cfg: Config, lm: LanguageModel, workspace: Workspace) -> None:
        self.section, self.seed, self.lm, self.workspace = cfg.synthesis, cfg.seed, lm, workspace
        options = self.section
        self.policy = Policy("nucleus", temperature=options.temperature, top_p=options.top_p)
        self.cache = OfflineCache(workspace.folder("cache"), {
            "model": options.model, "policy": repr(self.policy), "seed": cfg.seed,
            "max_new_tokens": options.max_new_tokens,
        })  # fmt: skip

    def tasks(self, form: str) -> list[str]:
        """Distinct usable task descriptions of a format."""
        count, number = self.section.tasks_per_request, self.section.requests
        prompt = framed(self.lm.tokenizer, task_prompt(FORMATS[form], count))
        items = [(prompt, str(i)) for i in range(number)]

        def compute(places: list[int]) -> list[dict[str, Any]]:
            rngs = [sample_rng(self.seed, 0, i, _TASK_STREAM) for i in places]
            found = self._continue([f'{prompt}["'] * len(places), rngs)
            return [{"tasks": list_items('["' + text)} for text in found]

        self._fill(items, compute, f"tasks {form}")
        said = [task for row in self.cache.rows(items) for task in row["tasks"]]
        usable = [task for task in said if len(task.split()) in TASK_WORDS]
        found = list(dict.fromkeys(usable))
        self.workspace.note(f"{form}: {len(found)} tasks of {len(said)} that were written")
        _need(found, self.section.model, f"task of the format {form}")
        return found

    def examples(self, form: str, tasks: Sequence[str]) -> list[EmbeddingRecord]:
        """Usable examples of a format; the tasks take turns."""
        keys, tokenizer = FORMATS[form].keys, self.lm.tokenizer
        chosen = [tasks[i % len(tasks)] for i in range(self.section.examples)]
        rngs = [sample_rng(self.seed, 0, i, _CONSTRAINT_STREAM) for i in range(len(chosen))]
        prompts = [
            framed(tokenizer, example_prompt(FORMATS[form], task, rng))
            for task, rng in zip(chosen, rngs, strict=True)
        ]
        items = [(prompt, str(i)) for i, prompt in enumerate(prompts)]

        def compute(places: list[int]) -> list[dict[str, Any]]:
            return [{"fields": f} for f in self._objects(prompts, keys, places)]

        self._fill(items, compute, f"examples {form}")
        found = []
        for task, row in zip(chosen, self.cache.rows(items), strict=True):
            texts = [row["fields"].get(key, "") for key in keys]
            if all(texts) and len({text.casefold() for text in texts}) == len(keys):
                query, right, wrong = texts
                found.append(EmbeddingRecord(query, (right,), (wrong,), instruction=task))
        self.workspace.note(f"{form}: {len(found)} usable examples of {len(chosen)}")
        return found

    def _objects(
        self, prompts: Sequence[str], keys: Sequence[str], places: Sequence[int]
    ) -> list[dict[str, str]]:
        """Fields of the answers to some prompts; the model is asked to go on with missing ones.

        Each round has streams of its own: how far one is used up depends on the rest of the batch.
        """
        found: dict[int, dict[str, str]] = {i: {} for i in places}
        for attempt in range(len(keys)):
            missing = [i for i in places if len(found[i]) < len(keys)]
            if not missing:
                break
            begun = [opened(found[i], keys) for i in missing]
            rngs = [sample_rng(self.seed, attempt, i, _EXAMPLE_STREAM) for i in missing]
            asked = [prompts[i] + text for i, text in zip(missing, begun, strict=True)]
            for i, head, tail in zip(missing, begun, self._continue(asked, rngs), strict=True):
                found[i] = object_fields(head + tail, keys)
        return list(found.values())

    def _continue(self, prompts: Sequence[str], rngs: Sequence[np.random.Generator]) -> list[str]:
        new = self.lm.continuations(
            prompts, self.policy, rngs, self.section.max_new_tokens,
            batch_size=self.section.batch_size,
        )  # fmt: skip
        return [continuation.text for continuation in new]

    def _fill(
        self,
        items: Sequence[tuple[str, str]],
        compute: Callable[[list[int]], list[dict[str, Any]]],
        what: str,
    ) -> None:
        self.cache.fill(
            items, compute, block_size=BLOCK,
            progress=lambda starts: self.workspace.progress(starts, what, len(starts)),
        )  # fmt: skip


def _need(found: Sequence[Any], model: str, what: str) -> None:
    if not found:
        raise UserError(
            f"synthesis.model={model} wrote no usable {what}: take a larger or instruction-tuned "
            "model, or raise synthesis.max_new_tokens, synthesis.requests or synthesis.examples"
        )
