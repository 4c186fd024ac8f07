"""`make run TASK=sets`: Mr. TyDi and XOR-Retrieve as they are offered -> what is read here."""

import csv
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from common.config import UserError
from common.damage import parse_json, reading
from common.data.tables import read_jsonl, write_jsonl
from common.engine.workspace import Workspace
from common.files import write_text
from projects.ccp.config import Config


def sets(cfg: Config, workspace: Workspace) -> Path:
    """Write a folder of ``eval.beir`` (mrtydi, one language) or of ``eval.xor`` (all languages).

    Of Mr. TyDi's parts train and dev it writes ``<part>.jsonl`` alone, for ``finetune.file``.

    Returns:
        The folder.

    Raises:
        UserError: no input, or files that are missing or of another layout.
    """
    options = cfg.sets
    if options.input is None:
        raise UserError("give the folder of the official files in sets.input")
    source = Path(options.input).expanduser()
    output = Path(options.output) if options.output else workspace.folder(".") / options.kind
    output.mkdir(parents=True, exist_ok=True)
    read = _mrtydi if options.kind == "mrtydi" else _xor
    count, left_out = read(source, output, options.part)
    without = f"; {left_out:,} without an answering passage are left out" if left_out else ""
    workspace.say(f"{output}: {count:,} questions{without}")
    return output


def _mrtydi(source: Path, output: Path, part: str) -> tuple[int, int]:
    """Release 1.1 of one language: ``docs.jsonl``, ``topic.<part>.tsv``, ``qrels.<part>.txt``."""
    documents = _documents(_only(source, "docs.jsonl"))
    asked = _fields(_only(source, f"topic.{part}.tsv"), "\t", "query, question")
    judged = _fields(_only(source, f"qrels.{part}.txt"), None, "query Q0 document grade")
    if part in ("train", "dev"):
        rows = _training_rows(documents, asked, judged)
        write_jsonl(output / f"{part}.jsonl", rows)
        return len(rows), len(asked) - len(rows)
    write_jsonl(output / "corpus.jsonl", documents)
    write_jsonl(output / "queries.jsonl", ({"_id": q, "text": text} for q, text in asked))
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{grade}" for q, _, d, grade in judged)]
    write_text(output / "qrels.tsv", "\n".join(lines) + "\n")
    return len(asked), 0


def _training_rows(
    documents: Iterable[dict[str, str]], asked: list[list[str]], judged: list[list[str]]
) -> list[dict[str, Any]]:
    """Questions with the passages that answer them, of DPR's layout.

    The release names no negatives.
    """
    right = [(q, d) for q, _, d, grade in judged if grade != "0"]
    positive_ids = {d for _, d in right}
    texts = {
        row["_id"]: {"title": row["title"], "text": row["text"]}
        for row in documents
        if row["_id"] in positive_ids
    }
    if missing := sorted(positive_ids - texts.keys()):
        raise UserError(f"the judgements name document '{missing[0]}', which docs.jsonl lacks")
    positives: dict[str, list[dict[str, str]]] = {}
    for q, d in right:
        positives.setdefault(q, []).append(texts[d])
    return [
        {
            "question": text,
            "positive_ctxs": positives[q],
            "negative_ctxs": [],
            "hard_negative_ctxs": [],
        }
        for q, text in asked
        if q in positives
    ]


def _documents(path: Path) -> Iterator[dict[str, str]]:
    """``contents`` is a title, a blank line and the text, or the text alone."""
    with reading(path, "file of documents"), _open(path) as file:
        for number, line in enumerate(file, start=1):
            row = parse_json(line, path, number)
            if not isinstance(row, dict) or not {"id", "contents"} <= row.keys():
                raise UserError(f"{path}, line {number}: expected 'id' and 'contents'")
            title, blank, text = str(row["contents"]).partition("\n\n")
            title, text = (title.strip(), text) if blank else ("", title)
            yield {"_id": str(row["id"]), "title": title, "text": text}


def _fields(path: Path, mark: str | None, layout: str) -> list[list[str]]:
    """Fields of every line; quotes are characters like others."""
    with reading(path, "table"), _open(path) as file:
        rows = [line.rstrip("\r\n").split(mark) for line in file if line.strip()]
    if any(len(row) != len(layout.split()) for row in rows):
        raise UserError(f"{path}: expected lines of '{layout}'")
    return rows


def _xor(source: Path, output: Path, part: str) -> tuple[int, int]:
    """One ``.tsv`` (id, text, title), and ``xor_<part>_*.jsonl`` (question, answers, lang)."""
    write_jsonl(output / "corpus.jsonl", _passages(_only(source, "*.tsv")))
    rows = read_jsonl(_only(source, f"xor_{part}_*.jsonl"), ("question", "answers", "lang"))
    for language in sorted({str(row["lang"]) for row in rows}):
        questions = [row for row in rows if row["lang"] == language]
        write_jsonl(output / f"questions.{language}.jsonl", questions)
    return len(rows), 0


def _only(folder: Path, name: str) -> Path:
    """The one file of a name, or of its gzipped kind, anywhere below a folder."""
    paths = sorted({*folder.rglob(name), *folder.rglob(f"{name}.gz")})
    if len(paths) != 1:
        raise UserError(f"{folder} has {len(paths)} files {name}[.gz], and one is needed")
    return paths[0]


def _passages(path: Path) -> Iterator[dict[str, str]]:
    """DPR's collection: tabs, a header, fields with quotes in quotes."""
    with reading(path, "collection of DPR's"), _open(path) as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if len(row) != 3:
                raise UserError(f"{path}, line {number}: expected id, text and title")
            if row[0] != "id":
                yield {"_id": row[0], "title": row[2], "text": row[1]}


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")
