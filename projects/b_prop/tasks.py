"""`make run TASK=rank`: a ranker on the user's own queries and documents."""

from pathlib import Path

from common.config import UserError
from common.damage import reading
from common.data.lines import read_lines
from common.data.tables import read_jsonl, write_jsonl
from common.encoders.modes import evaluated
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.retrieval.runs import bm25_index, words_on_disk
from common.export.files import output_file
from projects.b_prop.config import Config
from projects.b_prop.module import BProp

SHOWN = 5


def rank(cfg: Config, workspace: Workspace, experiment: Experiment[BProp]) -> Path:
    """Put the candidates of queries in a ranker's order: given ones, or BM25's of a text file.

    Returns:
        A JSON-lines file of ``query``, ``documents``, best first, and ``scores``.

    Raises:
        UserError: no input, a missing file, a folder as output, or no trained run.
    """
    options = cfg.rank
    output = output_file(options.output, workspace.folder("."), "ranked.jsonl", [options.input])
    asked = _given(options.input) if options.input is not None else _found(cfg)
    module, _ = trained_module(experiment, workspace, options.run, cfg.runs_dir)
    pairs = [(query, document) for query, documents in asked for document in documents]
    if not pairs:
        raise UserError("there is no candidate to rank")
    with evaluated(module.ranker, cfg.trainer.accelerator):
        scores = module.ranker.score(pairs, cfg.eval.batch_size, workspace.progress).tolist()
    rows, start = [], 0
    for query, documents in asked:
        part = scores[start : start + len(documents)]
        start += len(documents)
        order = sorted(range(len(part)), key=lambda i: -part[i])
        rows.append(
            {
                "query": query,
                "documents": [documents[i] for i in order],
                "scores": [round(part[i], 5) for i in order],
            }
        )
    write_jsonl(output, rows)
    for row in rows[:SHOWN]:
        best = f": {row['documents'][0][:70]}" if row["documents"] else ": no candidate"
        workspace.say(f"{row['query'][:60]}{best}")
    workspace.say(f"{output}: {len(rows)} queries")
    return output


def _given(path: str) -> list[tuple[str, list[str]]]:
    rows = read_jsonl(Path(path).expanduser(), ("query", "documents"))
    for number, row in enumerate(rows, start=1):
        good = isinstance(row["documents"], list) and all(
            isinstance(d, str) for d in row["documents"]
        )
        if not good or not isinstance(row["query"], str):
            raise UserError(f"{path}, line {number}: query is a text, documents a list of texts")
    return [(row["query"], row["documents"]) for row in rows]


def _texts(path: str) -> list[str]:
    """Lines of a text file that hold something."""
    with reading(path, "text file in UTF-8"):
        return [line for line in read_lines(Path(path).expanduser()) if line.strip()]


def _found(cfg: Config) -> list[tuple[str, list[str]]]:
    """BM25's candidates of queries among the lines of a file."""
    options = cfg.rank
    if options.documents is None or options.queries is None:
        raise UserError(
            "name rank.input (.jsonl of query and documents), or rank.documents and rank.queries "
            "(text files, one text per line)"
        )
    collection, queries = _texts(options.documents), _texts(options.queries)
    if not collection or not queries:
        raise UserError(f"{options.documents} and {options.queries}: one of them has no text")
    try:
        result = bm25_index(collection, words_on_disk(cfg.runs_dir)).search(
            queries, min(options.depth, len(collection))
        )
    except ValueError as error:
        raise UserError(f"{options.documents}: {error}") from error
    hits = zip(queries, result.indices.tolist(), result.scores.tolist(), strict=True)
    return [
        (query, [collection[i] for i, score in zip(places, scores, strict=True) if score > 0])
        for query, places, scores in hits
    ]
