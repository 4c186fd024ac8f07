"""`make run TASK=tokenize` and `TASK=mine`."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.lines import LineFile
from common.data.offline import claim
from common.data.retrieval.corpus_file import DistinctTexts, texts_of
from common.data.retrieval.passages import write_passages
from common.data.text.token_files import write_token_files
from common.encoders.modes import evaluated
from common.encoders.text.template import ROWS, plain_ids
from common.encoders.text.tower import load_tokenizer
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import load_corpus, load_titles
from common.evaluation.retrieval.text_mining import mine_text_negatives
from common.export.files import output_file
from common.families.retrieval.evaluation import on_disk
from common.families.retrieval.finetuning import questions
from common.families.retrieval.sets import set_folder
from projects.contriever.config import Config
from projects.contriever.data import left_out, vocabulary_of
from projects.contriever.module import Contriever
from projects.contriever.normalize import preparation
from projects.contriever.stages import recipe_of
from projects.contriever.stream import SHARD_SETTINGS, open_shards, refuse_loose_shards


def tokenize(cfg: Config, workspace: Workspace) -> Path:
    """Write the ids of text files, one text per line, as token files.

    Each text file has a folder of its own. Files that are there stay, so a stopped task continues,
    and any number of processes may share the work. What they were written with and from is
    alongside them (``shards.json``); a folder of other texts or settings is refused.

    Returns:
        The folder, for ``data.sources``.

    Raises:
        UserError: no input, no text in it, two files whose folders would have one name, or a folder
            that was written from another text, with another tokenizer or with other options.
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
    refuse_loose_shards(folder)
    if cfg.model.pretrained == "random" and cfg.model.tokenizer is None:
        tokenizer = recipe_of(cfg).build().tokenizer
    else:
        tokenizer = load_tokenizer(cfg.model.tokenizer or cfg.model.pretrained)
    settings = {
        "vocabulary": vocabulary_of(tokenizer),
        "normalize_text": options.normalize_text,
        "shard_lines": options.shard_lines,
    }
    kept, named = 0, list[str]()
    for file in files:
        lines = LineFile(file)
        if not any(line.strip() for line in map(lines.__getitem__, range(len(lines)))):
            continue
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        target = folder / titles[file]
        about = {"text": digest, **settings, "shards": -(-len(lines) // options.shard_lines)}
        claim(target, about, "folder of token shards", SHARD_SETTINGS)
        kept += len(list(target.glob("ids-*.npy")))
        write_token_files(
            target,
            digest,
            len(lines),
            partial(_ids_of_lines, lines, tokenizer, preparation(options.normalize_text)),
            np.uint16 if len(tokenizer) <= 2**16 else np.int32,
            options.shard_lines,
        )
        named.append(titles[file])
    if not named:
        raise UserError(f"tokenize.input={source} has no text")
    total = sum(map(len, open_shards(folder)))
    message = f"{folder}: {total:,} tokens, {kept} shards were there and are kept"
    names = {path.parent.name for path in folder.glob(f"*/{SHARD_SETTINGS}")}
    if others := names - {*named}:
        message += f"; the shards of {len(others)} other text files are there too and are read"
    workspace.say(message)
    return folder


def _title(file: Path, source: Path) -> str:
    """What the folder of a file is called: its name, with the folders between."""
    name = file.relative_to(source) if source.is_dir() else Path(file.name)
    return str(name.with_suffix("")).replace("/", "_")


def _ids_of_lines(
    lines: LineFile, tokenizer: Any, prepare: Callable[[str], str], part: range
) -> Iterator[list[int]]:
    """Ids of those lines of a file that hold a text, a few thousand at a time."""
    for start in range(part.start, part.stop, ROWS):
        texts = map(str.strip, lines.part(start, min(start + ROWS, part.stop)))
        yield from plain_ids(tokenizer, [prepare(text) for text in texts if text])


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
