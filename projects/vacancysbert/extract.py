"""`make run TASK=extract`: descriptions of adverts -> skills, once, offline and resumable.

Training and test files go through one call, so the same settings hold for both. Finished chunks are
kept alongside the outputs; other settings or other rows are refused there.
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
    options = cfg.extract
    if not options.inputs:
        raise UserError(
            "give the files of adverts in extract.inputs, such as [ads.jsonl, test.jsonl]"
        )
    inputs = [Path(name).expanduser() for name in options.inputs]
    if len({path.name for path in inputs}) < len(inputs):
        raise UserError("extract.inputs: two files have one name, and would be written to one")
    folder = Path(options.output).expanduser() if options.output else workspace.folder("extracted")
    if any(path.resolve().parent == folder.resolve() for path in inputs):
        raise UserError(f"extract.output={folder} holds an input, which would be overwritten")
    field = "skills" if options.kind == "precomputed" else "description"
    step = RowMap(
        "extract",
        partial(extractor, options, cfg.generator, cfg.data.root),
        settings_of(cfg),
        options.seed,
        chunk_size=CHUNK,
    )
    written = []
    for path in inputs:
        rows = read_jsonl(path, (field,))
        parts = folder / f"{path.name}.parts"
        for number, row in enumerate(rows, 1):
            _check(row[field], options.kind, f"{path}, row {number}")
        mapped = map_rows(step, [row[field] for row in rows], parts, cfg.task, workspace.meter)
        workspace.say(f"{path.name}: {mapped.summary}")
        if mapped.complete:
            written.append(folder / path.name)
            both = zip(rows, mapped.rows(), strict=True)
            write_jsonl(written[-1], [_with_skills(row, skills) for row, skills in both])
    return written


def _check(value: Any, kind: str, place: str) -> None:
    if kind == "precomputed":
        strings(value, place)
    elif not isinstance(value, str):
        raise UserError(f"{place}: a description is a string, got {value!r}")


def settings_of(cfg: Config) -> dict[str, Any]:
    """What skills depend on alongside their description."""
    options = cfg.extract
    settings: dict[str, Any] = {"kind": options.kind}
    if options.kind == "dictionary":
        settings["dictionary"] = options.dictionary or "ESCO"
    else:
        settings["max_words"] = options.max_words
    if options.kind == "ner":
        settings["model"] = options.ner_model
    if options.kind == "lm":
        sizes = {
            "prompt": options.max_prompt_tokens,
            "new": options.max_new_tokens,
            "batch": options.batch_size,
        }
        settings |= {**generator_settings(options.model, POLICY, cfg.generator), "tokens": sizes}
    return settings


def extractor(options: ExtractConfig, server: ServerConfig, root: str | None) -> RowFunction:
    """Rows of a chunk -> a list of distinct skills for each."""
    if options.kind == "dictionary":
        return _each(PhraseMatcher(_labels(options.dictionary, root)))
    if options.kind == "clauses":
        return _each(lambda text: clauses(text, options.max_words))
    if options.kind == "precomputed":
        return _each(lambda skills: tidy(skills, options.max_words))
    if options.kind == "ner":
        if options.ner_model is None:
            raise UserError("give a token-classification model in extract.ner_model")
        spans = span_tagger(options.ner_model, options.batch_size, options.device)
        return lambda rows, seeds: [tidy(phrases, options.max_words) for phrases in spans(rows)]
    return _by_language_model(options, server)


def parse_answer(answer: str, max_words: int) -> list[str]:
    r"""Skills of an answer: one a line, without bullets.

    >>> answer = "- Python\n2. SQL\n* python\n- 3D design\nI would be glad to tell you much more"
    >>> parse_answer(answer, 6)
    ['Python', 'SQL', '3D design']
    """
    return tidy([_BULLET.sub("", line, count=1) for line in answer.splitlines()], max_words)


def tidy(skills: Sequence[str], max_words: int) -> list[str]:
    """Distinct skills but for case, without empty and long ones, in their order."""
    kept: dict[str, str] = {}
    for skill in skills:
        plain = " ".join(skill.split()).strip(" ,;.")
        if plain and len(plain.split()) <= max_words:
            kept.setdefault(plain.casefold(), plain)
    return list(kept.values())


def _by_language_model(options: ExtractConfig, server: ServerConfig) -> RowFunction:
    generate = text_generator(
        options.model,
        POLICY,
        server,
        batch_size=options.batch_size,
        device=options.device,
        prompt_budget=options.max_prompt_tokens,
        cut_suffix=CUT,
    )

    def skills(rows: Sequence[str], seeds: Sequence[RowSeed]) -> list[list[str]]:
        prompts = [Prompt(f"{INSTRUCTION}\n\n{' '.join(text.split())}{CUT}") for text in rows]
        rngs = [seed.rng(TOKEN_STREAM) for seed in seeds]
        answers = generate(prompts, rngs, options.max_new_tokens)
        return [parse_answer(answer, options.max_words) for answer in answers]

    return skills


def _each(find: Callable[[Any], list[str]]) -> RowFunction:
    return lambda rows, seeds: [find(row) for row in rows]


def _labels(dictionary: str | None, root: str | None) -> dict[str, str]:
    if dictionary is None:
        return load_skill_labels(root)
    lines = (line.strip() for line in read_lines(Path(dictionary).expanduser()))
    labels = {line: line for line in lines if line}
    if not labels:
        raise UserError(f"extract.dictionary={dictionary} has no skill")
    return labels


def _with_skills(row: dict[str, Any], skills: list[str]) -> dict[str, Any]:
    return {**{k: v for k, v in row.items() if k != "description"}, "skills": skills}
