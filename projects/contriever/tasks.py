"""`make run TASK=tokenize` and `TASK=mine`."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.retrieval.passages import write_passages
from common.data.text.normalize import text_preparation
from common.data.text.tokens.stream import flat_ids
from common.encoders.modes import evaluated
from common.encoders.text.tower import load_tokenizer
from common.engine.experiment import Experiment
from common.engine.run import trained_module
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import load_corpus
from common.evaluation.retrieval.text_mining import mine_text_negatives
from common.families.retrieval.finetuning import questions
from projects.contriever.config import Config
from projects.contriever.module import Contriever
from projects.contriever.stages import recipe_of


def tokenize(cfg: Config, workspace: Workspace) -> Path:
    """Write the ids of text files, one text a line, as shards without borders of texts.

    A shard that is there already is kept, so that a stopped task goes on; shards come from disjoint
    lines and may be spread over machines by giving each its own files.

    Returns:
        The folder, for ``data.sources``.

    Raises:
        UserError: no input, or no text in it.
    """
    options = cfg.tokenize
    if options.input is None:
        raise UserError("name a text file or a folder of .txt files in tokenize.input")
    source = Path(options.input).expanduser()
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"tokenize.input={source} is no text file and no folder of .txt files")
    folder = workspace.folder("shards") if options.output is None else Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    if cfg.model.pretrained == "random" and cfg.model.tokenizer is None:
        tokenizer = recipe_of(cfg).build().tokenizer
    else:
        tokenizer = load_tokenizer(cfg.model.tokenizer or cfg.model.pretrained)
    prepare = text_preparation(options.normalize_text, False)
    total = 0
    for file in files:
        for number, lines in enumerate(_parts(file, options.shard_lines)):
            name = file.relative_to(source) if source.is_dir() else Path(file.name)
            path = folder / f"{str(name.with_suffix('')).replace('/', '_')}-{number:05d}.npy"
            if path.is_file():
                continue
            ids = flat_ids(tokenizer, [prepare(line) for line in lines])
            partial = path.with_suffix(".tmp")  # the shard appears whole or not at all
            with partial.open("wb") as target:
                np.save(target, ids.astype(np.uint16) if len(tokenizer) <= 2**16 else ids)
            partial.replace(path)
            total += len(ids)
    workspace.say(f"{folder}: {total:,} tokens written")
    return folder


def _parts(file: Path, count: int) -> Iterator[list[str]]:
    with file.open(encoding="utf-8") as lines:
        texts = (line.strip() for line in lines)
        kept = (text for text in texts if text)
        while part := list(islice(kept, count)):
            yield part


def mine(cfg: Config, workspace: Workspace, experiment: Experiment[Contriever]) -> Path:
    """Write the questions with the nearest passages that are no positives as hard negatives.

    ``finetune.file=<path>`` trains on them; the second phase starts again from the pre-trained
    encoder.

    Raises:
        UserError: no trained run, or missing files.
    """
    options = cfg.mine
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    records = questions(cfg, options.input)
    texts = [passage for record in records for passage in record.positives]
    if options.corpus is not None:
        texts += load_corpus(Path(options.corpus).expanduser()).values()
    collection = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(collection)}
    right = [[place[passage] for passage in record.positives] for record in records]
    most = max(len(own) for own in right)
    count = min(options.num_negatives, len(collection) - most)
    if count < 1:
        raise UserError("the collection holds nothing but positives: name mine.corpus")
    recipe = recipe_of(cfg)
    with evaluated(module.encoder, cfg.trainer.accelerator):
        found = mine_text_negatives(
            [record.question for record in records], collection, right, count,
            query_encoder=lambda rows: recipe.queries(module.encoder, rows),
            document_encoder=lambda rows: recipe.documents(module.encoder, rows),
            ratio=None, candidates=count, metric=recipe.metric,
        )  # fmt: skip
    mined = found.texts(collection)
    output = Path(options.output) if options.output else workspace.folder(".") / "mined.jsonl"
    rows = zip(records, mined, strict=True)
    write_passages(output, [replace(record, hard_negatives=tuple(own)) for record, own in rows])
    workspace.say(f"{output}: {len(records)} questions, {count} hard negatives each")
    return output
