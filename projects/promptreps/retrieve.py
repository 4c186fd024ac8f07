"""`make run TASK=retrieve`: both searches over what ``TASK=encode`` wrote; no model is loaded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from common.config import UserError
from common.damage import reading
from common.encoders.state_dict import read_state_dict
from common.engine.workspace import Workspace
from common.evaluation.retrieval.runs import run_scores
from common.families.retrieval.evaluation import load_set
from common.files import write_text
from projects.promptreps.config import Config
from projects.promptreps.evaluate import KS
from projects.promptreps.lexical.hybrid import (
    DenseIndex,
    Encoded,
    NamedRun,
    SparseIndex,
    component_runs,
    fuse,
)
from projects.promptreps.lexical.impact_files import read_impacts, read_query_lines

SHOWN = 3  # documents of a query in the gallery


class Texts(NamedTuple):
    """Encoded texts and their ids."""

    encoded: Encoded
    ids: list[str]


def retrieve(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Search a folder of encoded passages with one of encoded queries.

    Writes the rankings as ``dense.trec``, ``sparse.trec`` and ``hybrid.trec``.

    Returns:
        With `retrieve.judgements`, the metrics of the three; else nothing.

    Raises:
        UserError: a folder that is missing, unfinished, damaged, of another role or of another
            model.
    """
    options = cfg.retrieve
    if options.passages is None or options.queries is None:
        raise UserError(
            "give the folders that TASK=encode wrote in retrieve.passages and retrieve.queries"
        )
    tokens: dict[str, int] = {}
    passages = read_encoded(Path(options.passages).expanduser(), "passage", tokens)
    queries = read_encoded(Path(options.queries).expanduser(), "query", tokens)
    widths = [texts.encoded["dense"].shape[1] for texts in (passages, queries)]
    if widths[0] != widths[1]:
        raise UserError(
            f"passages have {widths[0]} dimensions and queries {widths[1]}: encode both by one model"
        )
    dense, sparse = component_runs(
        DenseIndex(*passages),
        SparseIndex(*passages),
        queries.encoded,
        queries.ids,
        cfg.eval.depth,
        remove_query=cfg.eval.remove_query,
    )
    runs = {"dense": dense, "sparse": sparse, "hybrid": fuse(dense, sparse, options.alpha)}
    folder = workspace.folder(".")
    for name, run in runs.items():
        write_text(folder / f"{name}.trec", trec_lines(run, f"promptreps-{name}"))
    workspace.say(f"{len(queries.ids)} queries, {len(passages.ids)} passages: {folder}/*.trec")
    if options.judgements is None:
        return {}
    data = load_set(cfg, options.judgements)
    metrics = {
        f"{name}_{metric}": value
        for name, run in runs.items()
        for metric, value in run_scores(data, run, KS).metrics.items()
    }
    workspace.say("\n".join(f"{name}: {value:.4f}" for name, value in metrics.items()))
    return metrics


def read_encoded(folder: Path, role: str, tokens: dict[str, int]) -> Texts:
    """Representations of all texts of a folder.

    Args:
        folder: holds ``rep-0``, ``rep-1``, ...
        role: "passage" or "query".
        tokens: token -> id, extended by those of the folder.

    Raises:
        UserError: not such a folder, or a damaged file.
    """
    places = sorted(folder.glob("rep-*"), key=lambda path: int(path.name.removeprefix("rep-")))
    file = {"passage": "sparse.jsonl", "query": "queries.tsv"}[role]
    if not places or not (places[0] / file).is_file():
        raise UserError(
            f"{folder} has no rep-0/{file}: write it by TASK=encode encode.role={role}"
            f" encode.output={folder}"
        )
    dense, owners = [], []
    sparse: list[dict[int, int]] = []
    numbers: dict[str, int] = {}  # rep-0 holds every text
    for place in places:
        with reading(place / "ids.json", "list of ids"):
            ids: list[str] = json.loads((place / "ids.json").read_text("utf-8"))
        vectors = read_state_dict(place / "dense.safetensors")["vectors"]
        weights = _weights(place / file, role, tokens)
        if len(vectors) != len(ids):
            raise UserError(
                f"{place} holds {len(vectors)} vectors of {len(ids)} texts: encode again"
            )
        owners += [numbers.setdefault(name, len(numbers)) for name in ids]
        dense.append(vectors)
        sparse += [weights.get(name, {}) for name in ids]
    owner = torch.tensor(owners)
    order = owner.argsort(stable=True)  # representations of a text one after the other
    encoded: Encoded = {
        "dense": torch.cat(dense)[order],
        "sparse": [sparse[i] for i in order.tolist()],
        "owner": owner[order],
    }
    return Texts(encoded, list(numbers))


def _weights(path: Path, role: str, tokens: dict[str, int]) -> dict[str, dict[int, int]]:
    """Text -> token id -> weight; queries without a weight are not in their file."""
    if role == "query":
        named: Mapping[str, Mapping[str, int]] = read_query_lines(path)
        return {
            name: {tokens.setdefault(token, len(tokens)): weight for token, weight in row.items()}
            for name, row in named.items()
        }
    ids, vectors, own = read_impacts(path)
    shared = {place: tokens.setdefault(token, len(tokens)) for token, place in own.items()}
    return {
        name: {shared[token]: weight for token, weight in vector.items()}
        for name, vector in zip(ids, vectors, strict=True)
    }


def trec_lines(run: NamedRun, tag: str) -> str:
    """A ranking as trec_eval reads it: query, Q0, document, rank, score, name.

    >>> print(trec_lines({"q": {"a": 0.5, "b": 2.0}}, "x"), end="")
    q Q0 b 1 2.000000 x
    q Q0 a 2 0.500000 x
    """
    lines: list[str] = []
    for query, hits in run.items():
        ranked: Sequence[tuple[str, float]] = sorted(hits.items(), key=lambda hit: -hit[1])
        lines += [
            f"{query} Q0 {document} {rank} {score:.6f} {tag}\n"
            for rank, (document, score) in enumerate(ranked, start=1)
        ]
    return "".join(lines)
