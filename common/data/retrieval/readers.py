"""Readers of public training sets for text embeddings, in the layouts that they are offered in.

| layout | files | content |
|---|---|---|
| records | ``.jsonl`` | unified records: query, positives and negatives of a row |
| beir | folder | ``corpus.jsonl``, ``queries.jsonl``, ``qrels/train.tsv`` |
| pairs | ``.jsonl`` | ``[a, b]``, ``[a, b, negative]``, ``{"query", "pos", "neg"}``, ``{"set"}`` |
| dpr | ``.json`` | list of ``question``, ``positive_ctxs``, ``hard_negative_ctxs`` |
| tevatron | ``.jsonl`` | ``query``, ``positive_passages``, ``negative_passages`` |
| squad | ``.json`` | SQuAD 1.1, or the answerable questions of 2.0 |
| nli | ``.jsonl`` / ``.tsv`` | SNLI and MultiNLI: ``sentence1``, ``sentence2``, ``gold_label`` |
| sts | table | two texts and a score from 0 to 5 |
| labelled | table | ``text`` and ``label_text`` or ``label`` |
| clusters | ``.jsonl`` / parquet | rows of parallel lists ``sentences``, ``labels`` |

A table is ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; text formats may be gzipped.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.damage import parse_json, reading
from common.data.retrieval.beir import check_judged, judgements, read_documents, read_queries
from common.data.retrieval.records import EmbeddingRecord, as_texts, nli_records, sts_records
from common.data.tables import read_csv, read_jsonl, read_parquet, text_of

Layout = Literal[
    "records", "beir", "pairs", "dpr", "tevatron", "squad", "nli", "sts", "labelled", "clusters"
]
_PAIR_NAMES = (("sentence1", "sentence2", "score"), ("text1", "text2", "score"))


def read_records(path: str | Path, layout: Layout) -> list[EmbeddingRecord]:
    """Examples of a retrieval, NLI or STS set.

    Args:
        path: file or folder of the layout.
        layout: see the table of this module.

    Raises:
        UserError: unknown layout, or files that are missing or of another layout.
    """
    readers: Mapping[str, Callable[[Path], list[EmbeddingRecord]]] = {
        "beir": _beir,
        "pairs": _pairs,
        "dpr": _dpr,
        "tevatron": _tevatron,
        "squad": _squad,
        "nli": _nli,
        "sts": _sts,
    }
    if layout not in readers:
        raise UserError(f"layout '{layout}' has no records; one of {', '.join(readers)} does")
    try:
        records = readers[layout](Path(path).expanduser())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is not of the layout '{layout}': {error!r}") from error
    if not records:
        raise UserError(f"{path} has no example of the layout '{layout}'")
    return records


def read_labels(path: str | Path, layout: Layout) -> tuple[list[str], list[str]]:
    """Texts and their classes.

    Args:
        path: table.
        layout: "labelled" or "clusters".

    Raises:
        UserError: another layout, a missing file, or one of another layout.
    """
    if layout not in ("labelled", "clusters"):
        raise UserError(f"layout '{layout}' has no classes; 'labelled' and 'clusters' do")
    rows = read_table(path)
    try:
        if layout == "clusters":
            pairs = [
                (text_of(text), text_of(label))
                for row in rows
                for text, label in zip(row["sentences"], row["labels"], strict=True)
            ]
        else:
            pairs = [(text_of(row["text"]), _label(row)) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not of the layout '{layout}': {error!r}") from error
    if not pairs:
        raise UserError(f"{path} has no text")
    return [text for text, _ in pairs], [label for _, label in pairs]


def _label(row: Mapping[str, Any]) -> str:
    """Class of a row, by name where it has one.

    Raises:
        ValueError: it has none.
    """
    label = row.get("label_text", row.get("label"))
    if label is None or str(label).strip() == "":
        raise ValueError(f"no label_text or label for {str(row['text'])[:60]!r}")
    return str(label)


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``.jsonl``, ``.csv``, ``.tsv`` (both may be gzipped) or ``.parquet`` file.

    Raises:
        UserError: another kind of file, or one that cannot be read.
    """
    kind = Path(str(path).removesuffix(".gz")).suffix
    if kind == ".jsonl":
        return read_jsonl(path)
    if kind in (".csv", ".tsv"):
        return read_csv(path)
    if kind == ".parquet":
        return read_parquet(path)
    raise UserError(f"{path}: expected a .jsonl, .csv, .tsv or .parquet file")


def _beir(folder: Path) -> list[EmbeddingRecord]:
    train, alone = folder / "qrels" / "train.tsv", folder / "qrels.tsv"
    path = alone if alone.is_file() and not train.is_file() else train
    right: dict[str, dict[str, None]] = {}
    for query, document, grade in judgements(path):
        if grade > 0:
            right.setdefault(query, {})[document] = None
    # only what is judged stays in memory: MS MARCO has 8.8 million passages for 0.5 million of
    # these
    passages = read_documents(
        folder, {document for documents in right.values() for document in documents}
    )
    queries = read_queries(folder, ids=right)
    check_judged(path, right, queries, passages, "they are left out")
    positives = {
        q: tuple(passages[d] for d in documents if d in passages) for q, documents in right.items()
    }
    return [EmbeddingRecord(queries[q], texts) for q, texts in positives.items() if texts]


def _pairs(path: Path) -> list[EmbeddingRecord]:
    records: list[EmbeddingRecord] = []
    for row in _json_lines(path):
        if isinstance(row, Mapping) and "set" in row:
            texts = list(row["set"])
            records += [EmbeddingRecord(texts[0], (other,)) for other in texts[1:]]
        elif isinstance(row, Mapping):
            right, wrong = as_texts(row["pos"]), as_texts(row.get("neg", ()))
            records.append(EmbeddingRecord(row["query"], right, wrong))
        else:
            records.append(EmbeddingRecord(row[0], (row[1],), tuple(row[2:])))
    return records


def read_dpr(path: str | Path) -> list[dict[str, Any]]:
    """Rows of DPR's layout, a ``.json`` list or ``.jsonl``, with passages as texts.

    Returns:
        ``question`` (text) and ``positive_ctxs``, ``negative_ctxs``, ``hard_negative_ctxs`` (tuples
        of ``title + " " + text``; empty where the file has none).

    Raises:
        UserError: a missing file, or one of another layout.
    """
    path = Path(path).expanduser()
    lines = ".jsonl" in path.suffixes
    kinds = ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
    try:
        return [
            {"question": text_of(row["question"]), "positive_ctxs": row["positive_ctxs"]}
            | {kind: tuple(_passage(p) for p in row.get(kind) or ()) for kind in kinds}
            for row in (_json_lines(path) if lines else _json(path))
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not of the layout 'dpr': {error!r}") from error


def _dpr(path: Path) -> list[EmbeddingRecord]:
    return [
        EmbeddingRecord(row["question"], row["positive_ctxs"], row["hard_negative_ctxs"])
        for row in read_dpr(path)
        if row["positive_ctxs"]
    ]


def _tevatron(path: Path) -> list[EmbeddingRecord]:
    return [
        EmbeddingRecord(
            row["query"],
            tuple(_passage(p) for p in row["positive_passages"]),
            tuple(_passage(p) for p in row.get("negative_passages", ())),
        )
        for row in read_jsonl(path, ("query", "positive_passages"))
        if row["positive_passages"]
    ]


def _squad(path: Path) -> list[EmbeddingRecord]:
    return [
        EmbeddingRecord(question["question"].strip(), (paragraph["context"],))
        for article in _json(path)["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        if not question.get("is_impossible")  # SQuAD 2.0: the paragraph does not answer it
    ]


def _nli(path: Path) -> list[EmbeddingRecord]:
    rows = read_table(path)
    return nli_records([(r["sentence1"], r["sentence2"], r["gold_label"]) for r in rows])


def _sts(path: Path) -> list[EmbeddingRecord]:
    rows = read_table(path)
    names = next((names for names in _PAIR_NAMES if rows and set(names) <= rows[0].keys()), None)
    if names is None:
        raise UserError(f"{path}: needs the columns {' or '.join(map(str, _PAIR_NAMES))}")
    a, b, score = names
    return sts_records([r[a] for r in rows], [r[b] for r in rows], [float(r[score]) for r in rows])


def _passage(row: Mapping[str, Any]) -> str:
    """Title and text, as DPR gives them to an encoder."""
    return f"{row.get('title') or ''} {text_of(row['text'])}".strip()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"training file {path} does not exist")
    opened: Any = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig")


def _json(path: Path) -> Any:
    with reading(path, "JSON file"), _open(path) as file:
        return json.load(file)


def _json_lines(path: Path) -> Iterator[Any]:
    with reading(path, "text file"), _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_json(line, path, number)
