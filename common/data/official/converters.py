"""From a publisher's files to the layout that configs read.

Each function takes the downloaded files, an empty folder for the set, and the data root.
"""

import ast
import csv
import gzip
import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading

NO_ANSWER = ("unanswerable", "binary", "long_answer")  # kinds that no passage is looked up for


def unpack(files: Sequence[Path], folder: Path, root: Path) -> None:
    """Content of archives; other files are copied, ``.gz`` unpacked."""
    for path in files:
        with reading(path, "archive"):
            if zipfile.is_zipfile(path):
                _unzip(path, folder)
            elif tarfile.is_tarfile(path):
                with tarfile.open(path) as archive:
                    archive.extractall(folder, filter="data")  # refuses links and paths outside
            elif path.suffix == ".gz":
                with gzip.open(path) as source, (folder / path.stem).open("wb") as target:
                    shutil.copyfileobj(source, target)
            else:
                shutil.copyfile(path, folder / path.name)


def unpack_inside(files: Sequence[Path], folder: Path, root: Path) -> None:
    """As `unpack`, without the one folder that everything in the archive is in."""
    unpack(files, folder, root)
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    if len(inside) != 1 or not inside[0].is_dir():
        raise UserError(f"{files[0].name} holds more than one folder: its publisher has changed it")
    outer = inside[0].rename(folder / ".unpacked")
    for path in outer.iterdir():
        path.rename(folder / path.name)
    outer.rmdir()


def beir_with_dev_queries(files: Sequence[Path], folder: Path, root: Path) -> None:
    """A BEIR archive whose development queries get a file of their own name."""
    unpack_inside(files, folder, root)
    os.link(folder / "queries.jsonl", folder / "queries.dev.jsonl")


def dpr_passages(files: Sequence[Path], folder: Path, root: Path) -> None:
    """DPR's ``psgs_w100.tsv`` (id, text, title) as ``corpus.jsonl``."""
    rows = _table(files[0], "\t")
    header = next(rows, [])
    if header != ["id", "text", "title"]:
        raise UserError(f"{files[0].name} begins with {header}, not with id, text, title")
    documents = ({"_id": i, "title": title, "text": text} for i, text, title in rows)
    _write(folder / "corpus.jsonl", documents)


def dpr_questions(files: Sequence[Path], folder: Path, root: Path) -> None:
    """DPR's questions (question, list of answers in Python's notation) over its passages."""
    rows = _table(files[0], "\t")
    questions = ({"question": q, "answers": ast.literal_eval(answers)} for q, answers in rows)
    _write(folder / "questions.jsonl", questions)
    _passages(folder, root)


def mkqa(files: Sequence[Path], folder: Path, root: Path) -> None:
    """MKQA's questions in every language with the English answers, over DPR's passages."""
    languages: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(files[0], "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            right = [a for a in row["answers"]["en"] if a["type"] not in NO_ANSWER and a["text"]]
            texts = dict.fromkeys(t for a in right for t in (a["text"], *a.get("aliases", ())))
            if texts:
                for language, question in row["queries"].items():
                    asked = {"question": question, "answers": list(texts)}
                    languages.setdefault(language, []).append(asked)
    for language, rows in languages.items():
        _write(folder / f"questions.{language}.jsonl", rows)
    _passages(folder, root)


def mr_tydi(files: Sequence[Path], folder: Path, root: Path) -> None:
    """One language of Mr. TyDi: its corpus, topics and judgements of the test part."""
    by_name = {path.name: path for path in files}
    with gzip.open(by_name["corpus.jsonl.gz"], "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        documents = (
            {"_id": r["docid"], "title": r.get("title", ""), "text": r["text"]} for r in rows
        )
        _write(folder / "corpus.jsonl", documents)
    topics = (line.split("\t", 1) for line in _lines(by_name["topics.test.txt"]))
    _write(folder / "queries.jsonl", ({"_id": i, "text": text} for i, text in topics))
    judged = [line.split() for line in _lines(by_name["qrels.test.txt"])]
    (folder / "qrels").mkdir()
    with (folder / "qrels/test.tsv").open("w", encoding="utf-8") as target:
        target.write("query-id\tcorpus-id\tscore\n")
        target.writelines(f"{query}\t{document}\t{grade}\n" for query, _, document, grade in judged)


def _passages(folder: Path, root: Path) -> None:
    """DPR's passages are one file for all sets over them."""
    os.link(root / "dpr/psgs_w100/corpus.jsonl", folder / "corpus.jsonl")


def _unzip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            target = (folder / member.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise UserError(f"{path.name} holds {member.filename}, which leaves its folder")
        archive.extractall(folder)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line.rstrip("\n") for line in lines if line.strip())


def _table(path: Path, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.reader(file, delimiter=delimiter)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as target:
        target.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
