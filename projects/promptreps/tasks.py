"""`make run TASK=evaluate`, `TASK=search` and `TASK=encode`."""

import base64
import json
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import UserError
from common.data.retrieval.beir import QUERIES
from common.data.row_map.chunks import RowFunction
from common.data.row_map.mapper import RowMap, map_rows
from common.data.tables import read_jsonl, write_jsonl
from common.data.text.normalize import text_preparation
from common.encoders.modes import evaluated
from common.encoders.state_dict import weights_digest
from common.engine.experiment import Experiment
from common.engine.trained import trained_module
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import has_corpus, load_corpus
from common.evaluation.retrieval.text_search import kept_index, read_texts, search_texts
from common.evaluation.tables import write_report
from common.export.files import write_json, write_tensors
from common.families.retrieval.evaluation import load_set
from common.families.retrieval.search import with_words
from common.families.retrieval.sets import set_folder
from common.files import replacing_together
from projects.promptreps.config import Config
from projects.promptreps.encoder import PromptRepsEncoder
from projects.promptreps.evaluate import evaluate, settings_of
from projects.promptreps.lexical.hybrid import Encoded
from projects.promptreps.lexical.hybrid_texts import EncodeBoth, HybridTextIndex
from projects.promptreps.lexical.impact_files import (
    token_names,
    write_impacts,
    write_query_lines,
)
from projects.promptreps.module import PromptReps
from projects.promptreps.prompt import Role
from projects.promptreps.stages import zero_shot_encoder


def evaluate_zero_shot(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Score the language model as it is; no run, no training."""
    with torch.inference_mode():
        metrics = evaluate(cfg, zero_shot_encoder(cfg), workspace)
    write_report(metrics, workspace.folder("."), title="PromptReps, zero-shot")
    workspace.say((workspace.path / "table.md").read_text("utf-8"))
    return metrics


def chosen_encoder(
    cfg: Config, workspace: Workspace, experiment: Experiment[PromptReps], run: str, zero_shot: bool
) -> PromptRepsEncoder:
    """The encoder of a run or an exported folder, or the language model as it is."""
    if zero_shot:
        return zero_shot_encoder(cfg)
    encoder: PromptRepsEncoder = trained_module(experiment, workspace, run, cfg.runs_dir)[0].encoder
    return encoder


def prepared_encode(cfg: Config, encoder: PromptRepsEncoder) -> EncodeBoth:
    """(texts, role, ...) -> representations of the texts as the evaluation prepares them."""
    prepare = text_preparation(cfg.eval.normalize_text, cfg.eval.lower_case)

    def run(texts: Sequence[str], role: Role, **options: Any) -> Encoded:
        return encoder.encode([prepare(t) for t in texts], role, cfg.eval.batch_size, **options)

    return run


def search(cfg: Config, workspace: Workspace, experiment: Experiment[PromptReps]) -> None:
    """Index a file or folder for both searches and print the best texts of queries.

    Raises:
        UserError: no trained run, or a file that is missing or empty.
    """
    options = cfg.search
    encoder = chosen_encoder(cfg, workspace, experiment, options.run, options.zero_shot)

    def texts() -> list[str]:
        if not cfg.eval.beir:
            raise UserError("give a text file or folder in search.file: the config has no set")
        return list(load_set(cfg, cfg.eval.beir[0]).corpus.values())

    def key() -> str:
        about = json.dumps(settings_of(cfg, encoder), sort_keys=True)
        return f"{weights_digest(encoder)} {about}"

    with evaluated(encoder, cfg.trainer.accelerator):
        index = kept_index(
            HybridTextIndex,
            options,
            prepared_encode(cfg, encoder),
            texts,
            key,
            alpha=options.alpha,
            depth=cfg.eval.depth,
            progress=workspace.progress,
        )
        search_texts(with_words(index, options.dense_weight), options)


def encode(cfg: Config, workspace: Workspace, experiment: Experiment[PromptReps]) -> Path:
    """Write a collection or queries as dense vectors and as files of an impact index.

    Work is done in parts that survive a kill and can be shared out (``task.shard=0/4``). For
    representation r of the texts, ``rep-<r>/`` holds ``dense.safetensors`` (``vectors``) with
    ``ids.json``, and ``sparse.jsonl`` (passages) or ``queries.tsv``. Texts without ids of their
    own, those of a text file or of a folder of such, are numbered, and ``texts.jsonl`` holds them
    (``_id``, ``text``).

    Returns:
        The folder.

    Raises:
        UserError: no input, no trained run, or a folder of other settings.
    """
    options = cfg.encode
    if options.input is None:
        raise UserError("give a text file or a folder in encode.input")
    texts = collection(cfg, options.input)
    encoder = chosen_encoder(cfg, workspace, experiment, options.run, options.zero_shot)
    named = options.output
    folder = workspace.folder("encoded") if named is None else Path(named).expanduser()
    settings = {"role": options.role, "weights": weights_digest(encoder)}
    settings |= settings_of(cfg, encoder)
    step = RowMap("encode", partial(row_function, cfg, encoder), settings, chunk_size=256)
    mapped = map_rows(step, list(texts.values()), folder / "parts", cfg.task, workspace.meter)
    workspace.say(mapped.summary)
    if mapped.complete:
        if not has_corpus(set_folder(options.input, cfg.data.root)):
            numbered = [{"_id": name, "text": text} for name, text in texts.items()]
            write_jsonl(folder / "texts.jsonl", numbered)
        rows = list(mapped.rows())
        for note in _write(options.role, list(texts), rows, encoder, folder, options.pickle):
            workspace.say(note)
    return folder


def collection(cfg: Config, place: str) -> Mapping[str, str]:
    """Texts by id: documents or, for the role of a query, queries of a BEIR folder; or lines.

    Raises:
        UserError: nothing is there, or a file of another layout.
    """
    folder = set_folder(place, cfg.data.root)
    if not has_corpus(folder):
        return {str(i): text for i, text in enumerate(read_texts(place))}
    if cfg.encode.role == "passage":
        return load_corpus(folder)
    plain = folder / QUERIES
    path = plain if plain.is_file() else plain.with_name(f"{QUERIES}.gz")
    texts: dict[str, str] = {}
    for number, row in enumerate(read_jsonl(path, ("_id", "text")), start=1):
        name, text = str(row["_id"]), row["text"]
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}, query {number}: the text of '{name}' is not a text, or empty")
        if texts.setdefault(name, text) != text:
            raise UserError(f"{path}, query {number}: two queries have the id '{name}' and differ")
    if not texts:
        raise UserError(f"{path} has no query")
    return texts


def row_function(cfg: Config, encoder: PromptRepsEncoder) -> RowFunction:
    """Texts -> for each a list of representations, dense vectors as base64 of float32."""

    def run(rows: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        with evaluated(encoder, cfg.trainer.accelerator):
            encoded = prepared_encode(cfg, encoder)(list(rows), cfg.encode.role)
        result: list[list[Any]] = [[] for _ in rows]
        for owner, vector, weights in zip(
            encoded["owner"].tolist(), encoded["dense"].numpy(), encoded["sparse"], strict=True
        ):
            packed = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            result[owner].append({"dense": packed, "sparse": list(weights.items())})
        return result

    return run


def _write(
    role: str,
    ids: list[str],
    rows: list[Any],
    encoder: PromptRepsEncoder,
    folder: Path,
    pickled: bool,
) -> list[str]:
    """Write the files of all representations; what is left out of them, in words."""
    # a head may be wider than the vocabulary, and a text of stop words has the best ids of all
    names = {i: f"<{i}>" for i in range(encoder.lm.vocab_size)}
    names |= token_names(encoder.lm.tokenizer.get_vocab())
    notes = []
    for place in range(max(len(parts) for parts in rows)):
        held = [(i, parts[place]) for i, parts in zip(ids, rows, strict=True) if len(parts) > place]
        own_ids = [i for i, _ in held]
        raw = b"".join(base64.b64decode(row["dense"]) for _, row in held)
        vectors = np.frombuffer(raw, "<f4").reshape(len(held), -1).copy()
        sparse = [{int(t): int(w) for t, w in row["sparse"]} for _, row in held]
        path = folder / f"rep-{place}"
        weights = path / ("queries.tsv" if role == "query" else "sparse.jsonl")
        pickles = [path / "dense.pkl"] if pickled else []
        places = path / "dense.safetensors", path / "ids.json", weights, *pickles
        with replacing_together(*places) as (dense, numbers, words, *dumps):
            write_tensors(dense, {"vectors": torch.from_numpy(vectors)})
            write_json(numbers, own_ids)
            if role == "query":
                left_out = write_query_lines(words, own_ids, sparse, names)
                note = f"{weights}: {left_out} queries without a token of weight are left out"
                notes += [note] * bool(left_out)
            else:
                write_impacts(words, own_ids, sparse, names)
            for dump in dumps:  # written for Tevatron's reader; never read here
                dump.write_bytes(pickle.dumps((vectors, own_ids)))
    return notes
