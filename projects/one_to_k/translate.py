"""Further languages for a caption file, by any local encoder-decoder: a resumable stage."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lines import one_line, read_lines
from common.data.row_map.chunks import RowSeed
from common.data.row_map.mapper import MappedRows, RowMap, map_rows
from common.data.row_map.options import RowMapConfig
from common.data.row_map.parts import MANIFEST, write_joined
from common.decoding.options import Policy
from common.engine.workspace import Workspace
from projects.one_to_k.config import TranslateConfig

CHUNK_BATCHES = 10  # batches in a file of finished lines


def build_translator(cfg: TranslateConfig) -> Any:
    """Lines of a chunk -> the same lines with the texts of the further languages that they lack."""
    from common.decoding.sequence_to_sequence import SequenceToSequence

    model = SequenceToSequence.from_pretrained(cfg.model, cfg.device)
    speaks = getattr(model.tokenizer, "get_lang_id", None)  # M2M-100: a start token a language
    if speaks is None and "{language}" not in cfg.prompt and len(cfg.languages) > 1:
        raise UserError(
            f"{cfg.model} has no language tokens: give the language in translate.prompt, such as "
            "'translate to {language}: {text}'"
        )

    def translate(lines: Sequence[str], seeds: Sequence[RowSeed]) -> list[str]:
        rows = [json.loads(line) for line in lines]
        for language in cfg.languages:
            if speaks is not None:
                model.tokenizer.src_lang = cfg.source
                model.model.generation_config.forced_bos_token_id = speaks(language)
            lacking = [i for i, row in enumerate(rows) if not row["caption"].get(language)]
            texts = [one_line(rows[i]["caption"][cfg.source]) for i in lacking]
            asked = [cfg.prompt.format(text=text, language=language) for text in texts]
            rngs = [seeds[i].rng(0) for i in lacking]
            answers = model.continuations(
                asked, Policy("greedy"), rngs, cfg.max_new_tokens, batch_size=cfg.batch_size
            )
            for i, answer in zip(lacking, answers, strict=True):
                rows[i]["caption"][language] = one_line(answer.text)
        return [json.dumps(row, ensure_ascii=False) for row in rows]

    return translate


def translate_file(
    cfg: TranslateConfig, workspace: Workspace | None = None, task: RowMapConfig | None = None
) -> MappedRows:
    """Translate every line of a JSONL file (``TASK=translate``).

    Texts that it has already are kept.

    Args:
        cfg: the section of the config.
        workspace: shows the progress, and is told of kept and of empty texts.
        task: share of the work, see `common.data.row_map`.

    Raises:
        UserError: no input or output named, the source among the further languages, a line without
            the source language, an output that was made by something else, or no such model.
    """
    if cfg.input is None or cfg.output is None:
        raise UserError("set translate.input and translate.output, files of JSON lines")
    if cfg.source in cfg.languages:
        raise UserError(f"translate.languages names the source '{cfg.source}': leave it out")
    lines, output = read_lines(Path(cfg.input).expanduser()), Path(cfg.output).expanduser()
    for number, line in enumerate(lines, 1):
        _check(f"{cfg.input}, line {number}", line, cfg.source)
    folder = output.with_name(output.name + ".parts")
    if output.exists() and not (folder / MANIFEST).is_file():
        raise UserError(f"{output} exists, but not {folder}: delete it or choose another output")
    settings = {
        "model": cfg.model,
        "source": cfg.source,
        "languages": list(cfg.languages),
        "prompt": cfg.prompt,
        "max_new_tokens": cfg.max_new_tokens,
        "batch_size": cfg.batch_size,
        "given": "kept",
    }
    step = RowMap(
        "translate",
        partial(build_translator, cfg),
        settings,
        0,
        chunk_size=CHUNK_BATCHES * cfg.batch_size,
    )
    mapped = map_rows(step, lines, folder, task, workspace.meter if workspace else None)
    if mapped.complete:
        write_joined(output, mapped.rows())
        if workspace is not None:
            kept = sum(counted(line, cfg.languages)[0] for line in lines)
            empty = sum(counted(line, cfg.languages)[1] for line in mapped.rows())
            workspace.say(
                f"{kept} texts were there and are kept; {empty} came out empty (training leaves"
                " such lines out)"
            )
    return mapped


def counted(line: str, languages: Sequence[str]) -> tuple[int, int]:
    """How many of the languages a line has a text in, and how many it has not.

    >>> counted('{"caption": {"en": "a", "id": "b", "ru": ""}}', ["id", "ru", "tr"])
    (1, 2)
    """
    caption = json.loads(line)["caption"]
    there = sum(bool(caption.get(language)) for language in languages)
    return there, len(languages) - there


def _check(place: str, line: str, source: str) -> None:
    try:
        caption = json.loads(line)["caption"][source]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} has no text in '{source}' under caption: {error}") from error
    if not isinstance(caption, str):
        raise UserError(f"{place}: the text in '{source}' is not a string")
