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


def unpack_twice(files: Sequence[Path], folder: Path, root: Path) -> None:
    """As `unpack_inside`, with the archives that are in the archive."""
    unpack_inside(files, folder, root)
    inner = [path for path in folder.iterdir() if path.name.endswith((".tar", ".tar.gz", ".zip"))]
    unpack(inner, folder, root)
    for path in inner:
        path.unlink()


def keep(files: Sequence[Path], folder: Path, root: Path) -> None:
    """Files as they are, in the folders that they were downloaded to."""
    base = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        target = folder / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def code_search_net(files: Sequence[Path], folder: Path, root: Path) -> None:
    """The functions of one language, ``final/jsonl``, and the lists next to them.

    The pickles of the archive are left out.
    """
    (archive,) = (path for path in files if path.suffix == ".zip")
    keep([path for path in files if path != archive], folder, root)
    with reading(archive, "archive"), zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            parts = Path(member.filename).parts
            if member.is_dir() or not member.filename.endswith(".jsonl.gz"):
                continue
            if len(parts) != 5 or parts[1:3] != ("final", "jsonl") or ".." in parts:
                raise UserError(
                    f"{archive.name} holds {member.filename}, not <language>/final/jsonl/*/*.gz"
                )
            target = folder.joinpath(*parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(member) as rows, target.open("wb") as to:
                shutil.copyfileobj(rows, to)


def wikides(files: Sequence[Path], folder: Path, root: Path) -> None:
    """WikiDes: the candidates of phase 2, and phase 1 from an archive for each split."""
    for path in files:
        if path.suffix != ".zip":
            keep([path], folder / "phase2", root)
            continue
        split = folder / "phase1" / path.stem.removesuffix("_256")
        split.mkdir(parents=True)
        unpack([path], split, root)
        for rows in sorted(split.rglob("*_para_256.json")):
            rows.rename(split / rows.name)


def trec_passages(files: Sequence[Path], folder: Path, root: Path) -> None:
    """Queries and judgements of a TREC Deep Learning track over MS MARCO's passages.

    Queries without a judgement are left out, as in the track's figures.
    """
    by_name = {path.name: path for path in files}
    (folder / "qrels").mkdir()
    _judgements(by_name["qrels"], folder / "qrels/test.tsv")
    judged = {line.split()[0] for line in _lines(by_name["qrels"])}
    queries = (line.split("\t", 1) for line in _lines(by_name["queries.gz"]))
    rows = ({"_id": i, "text": text} for i, text in queries if i in judged)
    _write(folder / "queries.jsonl", rows)
    os.link(root / "beir/msmarco/corpus.jsonl", folder / "corpus.jsonl")


def senteval(files: Sequence[Path], folder: Path, root: Path) -> None:
    """The folders of SentEval's tasks, wherever the archive has them."""
    unpack(files, folder, root)
    found = next((path.parent for path in sorted(folder.rglob("STS")) if path.is_dir()), folder)
    if found != folder:
        for path in list(found.iterdir()):
            path.rename(folder / path.name)


def mrpc(files: Sequence[Path], folder: Path, root: Path) -> None:
    """Microsoft's pairs, whose training part is divided by GLUE's list of ids."""
    by_name = {path.name: path for path in files}
    dev_ids = {tuple(line.split("\t")) for line in _lines(by_name["mrpc_dev_ids.tsv"])}
    rows = [line.lstrip("\ufeff") for line in _lines(by_name["msr_paraphrase_train.txt"])]
    header, *pairs = rows
    dev = [row for row in pairs if tuple(row.split("\t")[1:3]) in dev_ids]
    if len(dev) != len(dev_ids):
        raise UserError(f"{len(dev)} of {len(dev_ids)} development pairs are in the training file")
    train = [row for row in pairs if tuple(row.split("\t")[1:3]) not in dev_ids]
    test = [line.lstrip("\ufeff") for line in _lines(by_name["msr_paraphrase_test.txt"])]
    for name, lines in (("train", [header, *train]), ("dev", [header, *dev]), ("test", test)):
        (folder / f"{name}.tsv").write_text("".join(f"{line}\n" for line in lines), "utf-8")


def msmarco_documents(files: Sequence[Path], folder: Path, root: Path) -> None:
    """MS MARCO's documents in the BEIR layout, with runs of the official first stage.

    The table is also kept as ``msmarco-docs.tsv``, which pre-training reads.
    """
    by_name = {path.name: path for path in files}
    table = by_name["msmarco-docs.tsv.gz"]
    documents = (line.split("\t", 3) for line in _lines(table))
    _write(folder / "corpus.jsonl", ({"_id": i, "title": t, "text": b} for i, _, t, b in documents))
    unpack([table], folder, root)
    (folder / "qrels").mkdir()
    for name in ("train", "dev", "dl19"):
        queries = (line.split("\t", 1) for line in _lines(by_name[f"{name}.queries.gz"]))
        _write(folder / f"queries.{name}.jsonl", ({"_id": i, "text": t} for i, t in queries))
        judged = by_name.get(f"{name}.qrels.gz") or by_name[f"{name}.qrels"]
        _judgements(judged, folder / f"qrels/{name}.tsv")
        with gzip.open(by_name[f"{name}.run.gz"]) as run, (folder / f"{name}.run").open("wb") as to:
            shutil.copyfileobj(run, to)


def interactions(files: Sequence[Path], folder: Path, root: Path) -> None:
    """Rows of user, item, rating and time (commas, no header) in RecBole's layout."""
    _write_interactions(folder / f"{files[0].stem}.inter", _table(files[0], ","))


def movielens(files: Sequence[Path], folder: Path, root: Path) -> None:
    """MovieLens' ``ratings.dat`` in RecBole's layout."""
    name = files[0].stem
    with zipfile.ZipFile(files[0]) as archive, archive.open(f"{name}/ratings.dat") as ratings:
        rows = (line.decode("ascii").strip().split("::") for line in ratings)
        _write_interactions(folder / f"{name}.inter", rows)


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
    (folder / "qrels").mkdir()
    _judgements(by_name["qrels.test.txt"], folder / "qrels/test.tsv")


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


def _judgements(source: Path, target: Path) -> None:
    """TREC's judgements (query, 0, document, grade) as a table."""
    with target.open("w", encoding="utf-8") as table:
        table.write("query-id\tcorpus-id\tscore\n")
        for line in _lines(source):
            query, _, document, grade = line.split()
            table.write(f"{query}\t{document}\t{grade}\n")


def _write_interactions(path: Path, rows: Iterable[Sequence[str]]) -> None:
    columns = "user_id:token", "item_id:token", "rating:float", "timestamp:float"
    with path.open("w", encoding="utf-8") as target:
        target.write("\t".join(columns) + "\n")
        target.writelines("\t".join(row) + "\n" for row in rows)


def _lines(path: Path) -> Iterator[str]:
    """Lines that hold something, divided at line feeds alone."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as lines:
        yield from (line.rstrip("\r\n") for line in lines if line.strip())


def _table(path: Path, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.reader(file, delimiter=delimiter)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as target:
        target.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
