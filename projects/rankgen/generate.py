"""The generation stage: windows of books, and a continuation of each by a language model."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.lookup import data_root
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.data.splits import stable_fraction
from common.data.tables import write_jsonl
from common.data.text.books import Chapter, halves, load_books, read_book_folder, split_sentences
from common.decoding.generators import generator_settings, text_generator
from common.decoding.options import Policy
from common.decoding.prompts import Prompt
from common.engine.workspace import Workspace
from common.export.files import output_file
from projects.rankgen.books import Window, chapter_windows
from projects.rankgen.config import Config, Half, Part
from projects.rankgen.data import FILE
from projects.rankgen.decode import tidy

GENERATION_STREAM = 67
CHUNK = 128  # windows in a file of finished continuations
# part -> half and number of windows of the bundled set
BUNDLED_PARTS: dict[Part, tuple[Half, int]] = {
    "dev": ("all", 512),
    "test": ("all", 1600),
    "train": ("ranker", 5632),
}


def policy_of(cfg: Config, strategy: str | None = None) -> Policy:
    """Decoding policy of the generator section, or another strategy with its options."""
    names = {f.name for f in fields(Policy)} & vars(cfg.generator).keys()
    chosen = {name: getattr(cfg.generator, name) for name in names}
    if cfg.generator.amateur is not None:
        chosen["amateur_context"] = None  # a smaller model sees what the expert sees
    return Policy(**chosen | ({"strategy": strategy} if strategy else {}))


def book_windows(cfg: Config) -> list[Window]:
    """Windows of the config's books and half, evenly thinned to `window.limit`.

    Raises:
        UserError: missing books, or no windows.
    """
    section = cfg.window
    chapters: list[Chapter] = (
        load_books(cfg.data.root, section.part)
        if section.books is None
        else list(read_book_folder(data_root(cfg.data.root) / section.books))
    )
    if section.half != "all":
        chapters = halves(chapters)[section.half == "ranker"]
    windows = [
        window
        for chapter in chapters
        for window in chapter_windows(
            chapter,
            prefix_words=section.prefix_words,
            min_words=section.min_words,
            max_words=section.max_words,
            overlap=section.overlap,
            seed=cfg.seed,
        )
    ]
    if not windows:
        raise UserError("the books have no window of these lengths; lower window.prefix_words")
    count = min(section.limit or len(windows), len(windows))
    return [windows[i * len(windows) // count] for i in range(count)]


def write_windows(cfg: Config, workspace: Workspace) -> Path:
    """Write prefix and continuation of every window (``TASK=windows``).

    ``window.half=generator`` gives the pairs to tune a language model on; they share no chapter
    with those of ``window.half=ranker``, and each has a file of its own,
    ``windows-<part or folder of books>-<half>.jsonl``.
    """
    section = cfg.window
    source = section.part if section.books is None else Path(section.books).name
    path = _output(cfg, workspace, f"windows-{source}-{section.half}.jsonl")
    rows = [
        {"doc_id": w.book, "prefix": w.prefix, "gold": w.continuation} for w in book_windows(cfg)
    ]
    write_jsonl(path, rows)
    workspace.note(f"{len(rows)} windows: {path}")
    return path


def write_generations(cfg: Config, workspace: Workspace) -> Path:
    """Let the language model continue every prefix (``TASK=generate``).

    Can be stopped and continued.

    A continuation has a token budget of `generator.tokens_per_word` times the words of the gold and
    is cut as `generator.ending` says (see `fitted`). If fewer than `window.min_words` words are
    left it is sampled again, `generator.attempts` times in all, then dropped with its window.
    """
    path = _output(cfg, workspace, "triples.jsonl")
    rows = generated_rows(cfg, workspace)
    if rows is not None:
        write_jsonl(path, rows)
        workspace.say(f"{len(rows)} windows have a continuation: {path}")
    return path


def write_bundled(cfg: Config, workspace: Workspace) -> Path:
    """Make the bundled triples again (``TASK=bundle``): parts and counts of `BUNDLED_PARTS`."""
    parts: dict[Part, list[dict[str, Any]] | None] = {}
    for part, (half, limit) in BUNDLED_PARTS.items():
        window = replace(cfg.window, books=None, part=part, half=half, limit=limit)
        parts[part] = generated_rows(replace(cfg, window=window), workspace, f"generated-{part}")
    path = _output(cfg, workspace, FILE)
    if None not in parts.values():
        rows = [{"part": part, **row} for part, members in parts.items() for row in members or ()]
        write_jsonl(path, rows)
        workspace.say(f"{len(rows)} triples by {cfg.generator.model}: {path}")
    return path


def generated_rows(
    cfg: Config, workspace: Workspace, name: str = "generated"
) -> list[dict[str, Any]] | None:
    """``doc_id``, ``prefix``, ``gold``, ``generated`` of windows with long enough continuations.

    None if other shares have to finish first.

    Args:
        cfg: the experiment's config.
        workspace: of the task.
        name: of the folder of finished chunks.
    """
    windows, section = book_windows(cfg), cfg.generator
    step = RowMap(
        name,
        partial(build_continuer, cfg),
        {
            **generator_settings(section.model, policy_of(cfg), section),
            "amateur": section.amateur,
            "tokens_per_word": section.tokens_per_word,
            "min_words": cfg.window.min_words,
            "max_words": cfg.window.max_words,
            "ending": section.ending,
            "attempts": section.attempts,
            "batch_size": section.batch_size,
        },
        cfg.seed,
        CHUNK,
        # the seed belongs to the text, so that a window's continuation is the same in any selection
        key=lambda _, window: int(stable_fraction(window["prefix"]) * 2**31),
    )
    rows = [{"doc_id": w.book, "prefix": w.prefix, "gold": w.continuation} for w in windows]
    mapped = map_rows(step, rows, workspace.folder(name), cfg.task, workspace.meter)
    workspace.say(f"{name}: {mapped.summary}")
    if not mapped.complete:
        return None
    texts = zip(rows, mapped.rows(), strict=True)
    return [{**row, "generated": text} for row, text in texts if text is not None]


def build_continuer(cfg: Config) -> RowFunction:
    """Windows of a chunk -> a continuation each, None where too little is left of it."""
    section, policy = cfg.generator, policy_of(cfg)
    generate = text_generator(
        section.model,
        policy,
        section,
        batch_size=section.batch_size,
        device=section.device,
        amateur=section.amateur,
    )

    attempts = section.attempts if policy.samples else 1

    def proceed(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[str | None]:
        # windows of similar length share a batch, which is as long as its longest
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["gold"]))
        texts: list[str | None] = [None] * len(rows)
        for attempt in range(attempts):
            left = [i for i in order if texts[i] is None]
            if not left:
                break
            words = [len(rows[i]["gold"].split()) for i in left]
            written = generate(
                [Prompt(rows[i]["prefix"]) for i in left],
                [seeds[i].rng(GENERATION_STREAM, attempt) for i in left],
                [math.ceil(section.tokens_per_word * n) for n in words],
            )
            for i, n, continuation in zip(left, words, written, strict=True):
                texts[i] = fitted(cfg, continuation, n)
        return texts

    return proceed


def fitted(cfg: Config, text: str, words: int) -> str | None:
    """What is kept of a continuation; None if it is too short.

    With ``generator.ending=punctuation`` all up to its last ``. ? ! ;``, as the paper has it. Golds
    end with whole sentences, closing quotes included, and a ranker can tell the two by that alone;
    ``sentence`` cuts where the same splitter sees a sentence end, of those within
    `window.min_words` and `window.max_words` at the one nearest to the gold's length.

    Args:
        cfg: the experiment's config.
        text: as the language model wrote it.
        words: of the gold.
    """
    least, most = cfg.window.min_words, cfg.window.max_words
    if cfg.generator.ending == "punctuation":
        text = tidy(text)
        return text if len(text.split()) >= least else None
    whole = split_sentences(f"{text} X")[:-1]  # a capital tells an ended sentence from a begun one
    totals = np.cumsum([len(sentence.split()) for sentence in whole]).tolist()
    ends = [i for i, total in enumerate(totals) if least <= total <= most]
    if not ends:
        return None
    best = min(ends, key=lambda i: abs(totals[i] - words))
    return " ".join(whole[: best + 1])


def _output(cfg: Config, workspace: Workspace, name: str) -> Path:
    section = cfg.window
    return output_file(section.output, workspace.folder("."), name, [section.books])
