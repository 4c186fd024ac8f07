"""Both representations of a large collection, in shards on disk; searched one shard at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.data.retrieval.corpus_file import texts_digest
from common.data.shared_files import fill_shards
from common.encoders.state_dict import read_state_dict
from common.evaluation.matrices import blocks
from common.export.files import write_tensors
from projects.promptreps.lexical.hybrid import (
    DenseIndex,
    Encoded,
    NamedRun,
    SparseIndex,
    component_runs,
)


def encode_collection(
    encode: Callable[[list[str]], Encoded],
    texts: Sequence[str],
    folder: Path,
    model_key: str,
    *,
    shard_size: int,
    wait: bool = True,
) -> list[Path] | None:
    """Files of a collection's representations; those that are there are kept.

    Args:
        encode: of some passages.
        texts: the collection; a slice of it is a list.
        folder: one for each collection and model, which processes may share.
        model_key: names weights and settings of the encoder.
        shard_size: passages of a file.
        wait: whether to wait for files that other processes write; if not, None is returned while
            some are missing.

    Raises:
        UserError: the folder belongs to another collection, model or shard size.
    """
    parts = list(blocks(len(texts), shard_size))
    paths = [folder / f"shard-{i:05d}.safetensors" for i in range(len(parts))]
    owner = {"texts": texts_digest(texts), "model": model_key, "shard_size": shard_size}

    def write(shard: int) -> None:
        write_tensors(paths[shard], packed(encode(list(texts[parts[shard]]))))

    return paths if fill_shards(folder, owner, paths, write, wait=wait) else None


def packed(encoded: Encoded) -> dict[str, Tensor]:
    """Representations as plain tensors: the sparse ones as counts, tokens and weights."""
    sparse = encoded["sparse"]
    return {
        "dense": encoded["dense"].contiguous(),
        "owner": encoded["owner"],
        "counts": torch.tensor([len(row) for row in sparse]),
        "tokens": torch.tensor([t for row in sparse for t in row], dtype=torch.int32),
        "weights": torch.tensor([w for row in sparse for w in row.values()], dtype=torch.int32),
    }


def unpacked(state: dict[str, Tensor]) -> Encoded:
    """The inverse of `packed`."""
    counts = state["counts"].tolist()
    tokens, weights = (torch.split(state[name], counts) for name in ("tokens", "weights"))
    pairs = zip(tokens, weights, strict=True)
    return {
        "dense": state["dense"],
        "owner": state["owner"],
        "sparse": [dict(zip(t.tolist(), w.tolist(), strict=True)) for t, w in pairs],
    }


def shard_runs(
    paths: Sequence[Path],
    names: Sequence[str],
    queries: Encoded,
    query_names: Sequence[str],
    depth: int,
    *,
    remove_query: bool,
) -> tuple[NamedRun, NamedRun]:
    """The dense and the sparse run over all shards, as `component_runs` over the whole.

    For passages with several vectors the lists of a shard are as long as those of a whole
    collection would be, so that late interaction sums over more passages.

    Args:
        paths: of the shards, in the order of the collection.
        names: ids of all passages.
        queries: representations of the queries.
        query_names: their ids.
        depth: passages of a query, in each list.
        remove_query: leave out the passage whose id is that of the query.
    """
    runs: tuple[list[NamedRun], list[NamedRun]] = ([], [])
    start = 0
    for path in paths:
        encoded = unpacked(read_state_dict(path))
        count = int(encoded["owner"][-1]) + 1
        ids = list(names[start : start + count])
        start += count
        found = component_runs(
            DenseIndex(encoded, ids),
            SparseIndex(encoded, ids),
            queries,
            query_names,
            depth,
            remove_query=remove_query,
        )
        for merged, run in zip(runs, found, strict=True):
            merged[:] = [_best([*merged, run], depth)]
    return runs[0][0], runs[1][0]


def _best(runs: Sequence[NamedRun], depth: int) -> NamedRun:
    """The best hits of runs over disjoint passages; of equal ones, those of earlier runs."""
    best: NamedRun = {}
    for query in runs[0]:
        hits = [hit for run in runs for hit in run[query].items()]
        best[query] = dict(sorted(hits, key=lambda hit: -hit[1])[:depth])
    return best
