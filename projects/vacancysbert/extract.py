"""`make run TASK=extract`: descriptions of adverts -> skills, once, offline and resumable.

Training and test files go through one call, so the same settings hold for both. Finished chunks are
kept beside the outputs; other settings or other rows are refused there.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lines import read_lines
from common.data.occupations import load_skill_labels
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import read_jsonl, write_jsonl
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy, ServerConfig
from common.decoding.prompts import Prompt
from common.encoders.text.tagger import span_tagger
from common.engine.workspace import Workspace
from projects.vacancysbert.config import Config, ExtractConfig
from projects.vacancysbert.normalisation import strings
from projects.vacancysbert.phrases import PhraseMatcher, clauses

INSTRUCTION = (
    "Read the job description. Write down the professional skills, tools and fields of knowledge "
    "that it asks for in so many words: short noun phrases, one on each line, and nothing else."
)
CUT = "\n\nSkills:\n-"
POLICY = Policy("greedy")
TOKEN_STREAM = 74
CHUNK = 64
_BULLET = re.compile(r"\s*(?:[-*\u2022\u00b7]\s*|\d+[.)]\s+)*")  # "3D design" keeps its number


def extract(cfg: Config, workspace: Workspace) -> list[Path]:
    """Write each of ``extract.inputs`` with the field ``skills`` in place of ``description``.

    Returns:
        The files; those of which other shares have chunks to compute are left out.

    Raises:
        UserError: no input, two of one name, or missing files, fields or weights.
    """
    own = cfg.extract
    if not own.inputs:
        raise UserError(
            "name the files of adverts in extract.inputs, such as [ads.jsonl, test.jsonl]"
        )
    inputs = [Path(name).expanduser() for name in own.inputs]
    if len({path.name for path in inputs}) < len(inputs):
        raise UserError("extract.inputs: two files have one name, and would be written to one")
    folder = Path(own.output).expanduser() if own.output else workspace.folder("extracted")
    if any(path.resolve().parent == folder.resolve() for path in inputs):
        raise UserError(f"extract.output={folder} holds an input, which would be overwritten")
    field = "skills" if own.kind == "precomputed" else "description"
    step = RowMap(
        "extract",
        partial(extractor, own, cfg.generator, cfg.data.root),
        settings_of(cfg),
        own.seed,
        chunk_size=CHUNK,
    )
    written = []
    for path in inputs:
        rows = read_jsonl(path, (field,))
        parts = folder / f"{path.name}.parts"
        for number, row in enumerate(rows, 1):
            _check(row[field], own.kind, f"{path}, row {number}")
        found = map_rows(step, [row[field] for row in rows], parts, cfg.task, workspace.meter)
        workspace.say(f"{path.name}: {found.summary}")
        if found.complete:
            written.append(folder / path.name)
            both = zip(rows, found.rows(), strict=True)
            write_jsonl(written[-1], [_with_skills(row, skills) for row, skills in both])
    return written


def _check(found: Any, kind: str, place: str) -> None:
    if kind == "precomputed":
        strings(found, place)
    elif not isinstance(found, str):
        raise UserError(f"{place}: a description is a string, got {found!r}")


def settings_of(cfg: Config) -> dict[str, Any]:
    """What skills depend on beside their description."""
    own = cfg.extract
    found: dict[str, Any] = {"kind": own.kind}
    if own.kind == "dictionary":
        found["dictionary"] = own.dictionary or "ESCO"
    else:
        found["max_words"] = own.max_words
    if own.kind == "ner":
        found["model"] = own.ner_model
    if own.kind == "lm":
        sizes = {
            "prompt": own.max_prompt_tokens,
            "new": own.max_new_tokens,
            "batch": own.batch_size,
        }
        found |= {**generator_settings(own.model, POLICY, cfg.generator), "tokens": sizes}
    return found


def extractor(own: ExtractConfig, server: ServerConfig, root: str | None) -> RowFunction:
    """Rows of a chunk -> a list of distinct skills for each."""
    if own.kind == "dictionary":
        return _each(PhraseMatcher(_labels(own.dictionary, root)))
    if own.kind == "clauses":
        return _each(lambda text: clauses(text, own.max_words))
    if own.kind == "precomputed":
        return _each(lambda skills: tidy(skills, own.max_words))
    if own.kind == "ner":
        if own.ner_model is None:
            raise UserError("name a token-classification model in extract.ner_model")
        spans = span_tagger(own.ner_model, own.batch_size, own.device)
        return lambda rows, seeds: [tidy(found, own.max_words) for found in spans(rows)]
    return _by_language_model(own, server)


def parse_answer(answer: str, max_words: int) -> list[str]:
    r"""Skills of an answer: one a line, without bullets.

    >>> parse_answer("- Python\n2. SQL\n* python\n- 3D design\nI would be glad to tell you much more", 6)
    ['Python', 'SQL', '3D design']
    """
    return tidy([_BULLET.sub("", line, count=1) for line in answer.splitlines()], max_words)


def tidy(skills: Sequence[str], max_words: int) -> list[str]:
    """Distinct skills but for case, without empty and long ones, in their order."""
    found: dict[str, str] = {}
    for skill in skills:
        plain = " ".join(skill.split()).strip(" ,;.")
        if plain and len(plain.split()) <= max_words:
            found.setdefault(plain.casefold(), plain)
    return list(found.values())


def _by_language_model(own: ExtractConfig, server: ServerConfig) -> RowFunction:
    generate = text_generator(
        own.model,
        POLICY,
        server,
        batch_size=own.batch_size,
        device=own.device,
        prompt_budget=own.max_prompt_tokens,
        cut_suffix=CUT,
    )

    def skills(rows: Sequence[str], seeds: Sequence[RowSeed]) -> list[list[str]]:
        prompts = [Prompt(f"{INSTRUCTION}\n\n{' '.join(text.split())}{CUT}") for text in rows]
        rngs = [seed.rng(TOKEN_STREAM) for seed in seeds]
        answers = generate(prompts, rngs, own.max_new_tokens)
        return [parse_answer(answer, own.max_words) for answer in answers]

    return skills


def _each(find: Callable[[Any], list[str]]) -> RowFunction:
    return lambda rows, seeds: [find(row) for row in rows]


def _labels(dictionary: str | None, root: str | None) -> dict[str, str]:
    if dictionary is None:
        return load_skill_labels(root)
    lines = (line.strip() for line in read_lines(Path(dictionary).expanduser()))
    found = {line: line for line in lines if line}
    if not found:
        raise UserError(f"extract.dictionary={dictionary} holds no skill")
    return found


def _with_skills(row: dict[str, Any], skills: list[str]) -> dict[str, Any]:
    return {**{k: v for k, v in row.items() if k != "description"}, "skills": skills}
