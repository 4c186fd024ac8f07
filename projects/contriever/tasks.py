"""`make run TASK=tokenize` and `TASK=mine`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from common.config import UserError
from common.damage import reading
from common.data.offline import content_digest
from common.data.retrieval.corpus_file import DistinctTexts, texts_of
from common.data.retrieval.passages import write_passages
from common.encoders.modes import evaluated
from common.encoders.text.tower import load_tokenizer
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace, read_json, write_json
from common.evaluation.retrieval.beir import load_corpus, load_titles
from common.evaluation.retrieval.text_mining import mine_text_negatives
from common.export.files import output_file
from common.families.retrieval.evaluation import on_disk
from common.families.retrieval.finetuning import questions
from common.families.retrieval.sets import set_folder
from common.files import replacing
from projects.contriever.config import Config
from projects.contriever.data import SHARD_SETTINGS, left_out, vocabulary_of
from projects.contriever.module import Contriever
from projects.contriever.normalize import preparation
from projects.contriever.stages import recipe_of
from projects.contriever.stream import SHARDS, flat_ids


def tokenize(cfg: Config, workspace: Workspace) -> Path:
    """Write the ids of text files, one text per line, as shards without borders of texts.

    A shard of the same lines that is there already is kept, so that a stopped task goes on; one of
    other lines is rewritten, and one beyond the end of its file is removed. Shards come from
    disjoint lines and may be spread over machines by giving each its own files. What they were
    written with and from lies alongside them (``shards.json``, ``<file>.lines.json``); a folder of
    other settings is refused.

    Returns:
        The folder, for ``data.sources``.

    Raises:
        UserError: no input, no text in it, two files whose shards would have one name, or a folder
            whose shards were written with another tokenizer or other options.
    """
    options = cfg.tokenize
    if options.input is None:
        raise UserError("give a text file or a folder of .txt files in tokenize.input")
    source = Path(options.input).expanduser()
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise UserError(
            f"tokenize.input={source} is neither a text file nor a folder of .txt files"
        )
    titles = {file: _title(file, source) for file in files}
    for first, second in pairwise(sorted(files, key=lambda file: titles[file])):
        if titles[first] == titles[second]:
            raise UserError(f"{first} and {second} would share shards: rename one of them")
    folder = (
        workspace.folder("shards") if options.output is None else Path(options.output).expanduser()
    )
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.model.pretrained == "random" and cfg.model.tokenizer is None:
        tokenizer = recipe_of(cfg).build().tokenizer
    else:
        tokenizer = load_tokenizer(cfg.model.tokenizer or cfg.model.pretrained)
    _same_settings(
        folder,
        {
            "vocabulary": vocabulary_of(tokenizer),
            "normalize_text": options.normalize_text,
            "shard_lines": options.shard_lines,
        },
    )
    prepare = preparation(options.normalize_text)
    total = kept = renewed = 0
    stale: dict[Path, list[str]] = {}
    for file in files:
        about = folder / f"{titles[file]}.lines.json"
        stored = read_json(about) if about.is_file() else []
        digests: list[str] = []
        for number, lines in enumerate(_parts(file, options.shard_lines)):
            path = folder / f"{titles[file]}-{number:05d}.npy"
            digests.append(content_digest(lines)[:16])
            if path.is_file() and stored[number : number + 1] == digests[-1:]:
                kept += 1
                continue
            renewed += path.is_file()
            ids = flat_ids(tokenizer, [prepare(line) for line in lines])
            with replacing(path) as partial, partial.open("wb") as target:
                np.save(target, ids.astype(np.uint16) if len(tokenizer) <= 2**16 else ids)
            write_json(about, [*digests, *stored[len(digests) :]])
            total += len(ids)
        for path in _shards(folder, titles[file])[len(digests) :]:
            stale[path] = digests
    if not total and not kept:
        raise UserError(f"tokenize.input={source} has no text")
    for path, digests in stale.items():
        path.unlink()
        write_json(folder / f"{path.stem.rpartition('-')[0]}.lines.json", digests)
    said = f"{folder}: {total:,} tokens written, {kept} shards were there and are kept"
    if renewed:
        said += f", {renewed} were rewritten (their lines have changed, or were not on record)"
    if stale:
        said += f", {len(stale)} beyond the end of their files are removed"
    shards = {path for title in titles.values() for path in _shards(folder, title)}
    if others := len({*folder.glob(SHARDS)} - shards):
        said += f"; {others} shards of other text files lie there too and are read with them"
    workspace.say(said)
    return folder


def _shards(folder: Path, title: str) -> list[Path]:
    """The shards of a text file, in the order of their numbers."""
    name = re.compile(rf"{re.escape(title)}-(\d{{5,}})\.npy")
    matches = ((name.fullmatch(path.name), path) for path in folder.glob(SHARDS))
    return [path for _, path in sorted((int(m[1]), path) for m, path in matches if m)]


def _title(file: Path, source: Path) -> str:
    """What the shards of a file are called: its name, with the folders between."""
    name = file.relative_to(source) if source.is_dir() else Path(file.name)
    return str(name.with_suffix("")).replace("/", "_")


def _same_settings(folder: Path, settings: dict[str, str | bool | int]) -> None:
    """Write down what shards are made with, or refuse a folder whose shards were made otherwise."""
    about = folder / SHARD_SETTINGS
    stored = read_json(about) if about.is_file() else None
    if stored is None and not any(folder.glob(SHARDS)):
        write_json(about, settings)
    elif stored != settings:
        raise UserError(
            f"{folder} contains shards of other settings ({stored or 'unknown'}, not {settings}):"
            " name another folder in tokenize.output"
        )


def _parts(file: Path, count: int) -> Iterator[list[str]]:
    # a byte order mark is not a text
    with reading(file, "text file in UTF-8"), file.open(encoding="utf-8-sig") as lines:
        texts = (line.strip() for line in lines)
        kept = (text for text in texts if text)
        while part := list(islice(kept, count)):
            yield part


def mine(cfg: Config, workspace: Workspace, experiment: Experiment[Contriever]) -> Path:
    """Write the questions with the nearest passages that are no positives as hard negatives.

    ``finetune.file=<path>`` trains on them; the second phase starts again from the pre-trained
    encoder. A passage of the collection that is a positive with a title before it is no negative,
    nor is a positive of another record of the question. Questions without a positive are left out,
    and counted.

    Raises:
        UserError: no trained run, no questions, missing files, or a folder as output.
    """
    options = cfg.mine
    output = output_file(options.output, workspace.folder("."), "mined.jsonl", [options.input])
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    records = questions(cfg, file := options.input or cfg.finetune.file)
    if note := left_out(cfg, file):
        workspace.say(note)
    if not records:
        raise UserError("there is no question: give a file in mine.input or finetune.file")
    texts = list(dict.fromkeys(passage for record in records for passage in record.positives))
    twins: dict[str, list[str]] = {text: [] for text in texts}  # passages that are it with a title
    corpus: Sequence[str] = []
    if options.corpus is not None:
        folder = set_folder(options.corpus, cfg.data.root)
        corpus, bodies = texts_of(load_corpus(folder)), load_titles(folder)[1].values()
        for passage, body in zip(corpus, bodies, strict=True):
            if (same := twins.get(body.strip())) is not None:
                same.append(passage)
    collection = DistinctTexts(texts, corpus)
    positives: dict[str, set[str]] = {}  # question -> those of all its records
    for record in records:
        positives.setdefault(record.question, set()).update(record.positives)
    right = [
        sorted({collection.place(t) for p in positives[record.question] for t in (p, *twins[p])})
        for record in records
    ]
    most = max(len(documents) for documents in right)
    count = min(options.num_negatives, len(collection) - most)
    if count < 1:
        raise UserError("the collection contains nothing but positives: give mine.corpus")
    recipe = recipe_of(cfg)
    with evaluated(module.encoder, cfg.trainer.accelerator):
        negatives = mine_text_negatives(
            [record.question for record in records],
            collection,
            right,
            count,
            query_encoder=lambda rows: recipe.queries(module.encoder, rows),
            document_encoder=lambda rows: recipe.documents(module.encoder, rows),
            ratio=None,
            candidates=count,
            metric=recipe.metric,
            on_disk=on_disk(cfg, module.encoder),
        )
    mined = negatives.texts(collection)
    rows = zip(records, mined, strict=True)
    write_passages(
        output, [replace(record, hard_negatives=tuple(documents)) for record, documents in rows]
    )
    workspace.say(f"{output}: {len(records)} questions, {count} hard negatives each")
    return output
