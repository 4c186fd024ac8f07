"""`make run TASK=prepare` and `TASK=word_sets`: documents -> words and attention -> word sets.

Both run on the stage machine: a stopped task goes on, shares may run on several machines.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import parse_json
from common.data.lines import LineFile
from common.data.retrieval.beir import CORPUS
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.encoders.text.tower import load_tokenizer
from common.engine.workspace import Workspace
from projects.b_prop.config import Config
from projects.b_prop.data import (
    PairBatches,
    analyser,
    attention_settings,
    attention_source,
    kept_documents,
    training_documents,
)
from projects.b_prop.documents import (
    COLLECTION,
    Collection,
    Row,
    settings_of,
    write_documents,
    write_lines,
)
from projects.b_prop.stages import build_ranker
from projects.b_prop.words import WordSampler

CHUNK = 256
LOST = "\ufffd"  # what other programs write for bytes that they could not decode


class Articles(Sequence[Row]):
    """Documents of a file by index: JSON lines of title and text, or MS MARCO's table.

    The text is ``title + ". " + body``; a row's own ``id`` (``_id``, ``docid``) names it, else its
    line.

    Args:
        path: ``.jsonl``, ``.tsv`` (docid, url, title, body without a header), or a folder in the
            BEIR layout.
        keep_words: white-space words that are kept; None: all.

    Raises:
        UserError: no such file, or one with another ending.
    """

    def __init__(self, path: Path, keep_words: int | None = None) -> None:
        path = path / CORPUS if path.is_dir() else path
        if path.suffix not in (".jsonl", ".json", ".tsv"):
            raise UserError(f"prepare.input={path}: give a .jsonl or .tsv file, or a BEIR folder")
        self.lines, self.keep_words = LineFile(path), keep_words

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        """Row with ``id`` and ``text``."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line, path = self.lines[index], self.lines.path
        if path.suffix == ".tsv":
            fields = line.split("\t")
            if len(fields) != 4:
                raise UserError(f"{path}, line {index + 1}: expected docid, url, title, body")
            name, title, body = fields[0], fields[2], fields[3]
        else:
            row = parse_json(line, path, index + 1)
            if not isinstance(row, dict) or "text" not in row:
                raise UserError(f"{path}, line {index + 1}: expected an object with title and text")
            name = row.get("id", row.get("_id", row.get("docid", index)))
            title, body = row.get("title") or "", row["text"] or ""
            if not (isinstance(title, str) and isinstance(body, str)):
                raise UserError(f"{path}, line {index + 1}: title and text have to be texts")
        text = f"{title}. {body}" if title else body
        if self.keep_words is not None:
            text = " ".join(text.split()[: self.keep_words])
        return {"id": str(name), "text": text}


def prepare(cfg: Config, workspace: Workspace) -> Path | None:
    """Write the words of documents, with the attention of any local encoder, and the collection.

    Returns:
        The folder, for ``data.documents``; None while other shares are missing.

    Raises:
        UserError: no input, or missing weights.
    """
    options = cfg.prepare
    if options.input is None:
        raise UserError("give the documents in prepare.input: .jsonl, .tsv or a BEIR folder")
    # without attention the whole text is counted before it is cut, see `Analyser`
    rows = Articles(
        Path(options.input).expanduser(), options.keep_words if options.attention else None
    )
    folder = Path(options.output) if options.output else workspace.folder("documents")
    encoder = cfg.words.encoder or cfg.model.pretrained
    if options.attention and encoder == "random":
        raise UserError("random weights attend to nothing: give an encoder in words.encoder")
    settings = {
        "encoder": encoder,
        "attention": options.attention,
        "layer": cfg.words.layer,
        "heads": cfg.words.heads,
        "parity": cfg.words.parity_extraction,
        "max_document": cfg.data.max_document,
        "keep_words": options.keep_words,
        "batch": options.batch_size,
    }
    if not options.attention and options.keep_words is not None:
        settings["counts"] = "whole texts"  # not what is within max_document or kept
    step = RowMap("words", partial(_analyse, cfg), settings, chunk_size=CHUNK)
    mapped = map_rows(step, rows, folder / "parts", cfg.task, workspace.meter)
    workspace.say(f"{folder}: {mapped.summary}")
    if not mapped.complete:
        return None
    doubtful = sum(LOST in row["text"] for row in mapped.rows())
    if doubtful:
        workspace.say(
            f"{options.input}: {doubtful} documents contain U+FFFD, where characters were lost"
            " before; words are cut there: prepare the original files again and remove the output"
        )
    count, path = write_documents(folder, mapped.rows())
    collection = Collection.of(mapped.rows(), cfg.words)
    collection.attention = attention_settings(cfg) if options.attention else {}
    collection.max_document = cfg.data.max_document
    collection.save(folder / COLLECTION)
    workspace.say(f"{path}: {count:,} documents; collection settings {settings_of(cfg.words)}")
    return folder


def word_sets(cfg: Config, workspace: Workspace) -> Path | None:
    """Write the word sets that an epoch of the training draws, in the release's layout.

    One line a document: ``doc_id``, ``rep_word_sets`` (pairs of [words, score], the more
    representative set first) and ``bert_tokenized_content``.

    Returns:
        ``instances_epoch_<n>.json``; None while other shares are missing.
    """
    ranker = build_ranker(cfg)
    documents, collection = training_documents(cfg, ranker)
    sampler = WordSampler(cfg.words, collection)
    pairs = PairBatches(documents, kept_documents(documents, cfg), sampler, ranker, cfg)
    epoch, count = cfg.prepare.epoch, cfg.data.pairs
    folder = Path(cfg.prepare.output) if cfg.prepare.output else workspace.folder("word_sets")

    def draw(rows: Sequence[list[int]], seeds: Sequence[RowSeed]) -> list[Row]:
        return [_instance(pairs, place, epoch, count) for place, _ in rows]

    settings = {
        "words": vars(cfg.words),
        "pairs": count,
        "epoch": epoch,
        "documents": cfg.data.documents or cfg.data.source,
        "attention": attention_settings(cfg),
        "max_document": cfg.data.max_document,
    }
    step = RowMap("word sets", lambda: draw, settings, cfg.seed, chunk_size=CHUNK)
    places = [[place, int(index)] for place, index in enumerate(pairs.kept)]
    mapped = map_rows(step, places, folder / f"parts-{epoch}", cfg.task, workspace.meter)
    workspace.say(f"{folder}: {mapped.summary}")
    if not mapped.complete:
        return None
    path = folder / f"instances_epoch_{epoch}.json"
    write_lines(path, mapped.rows())
    return path


def _analyse(cfg: Config) -> RowFunction:
    """Row function of the task, where it is worked on."""
    if cfg.prepare.attention:
        ranker = None if cfg.words.encoder is not None else build_ranker(cfg)
        return analyser(cfg, *attention_source(cfg, ranker), cfg.prepare.batch_size)
    tokenizer = load_tokenizer(cfg.words.encoder or cfg.model.pretrained)
    return analyser(cfg, tokenizer, None, cfg.prepare.batch_size)


def _instance(pairs: PairBatches, place: int, epoch: int, count: int) -> Row:
    drawn = [pairs.draw(place * count + i, epoch) for i in range(count)]
    row = drawn[0][0]
    return {
        "doc_id": row["id"],
        "rep_word_sets": [[[" ".join(words), score] for words, score in pair] for _, pair in drawn],
        "bert_tokenized_content": pairs.tokenizer.tokenize(row["text"]),
    }
