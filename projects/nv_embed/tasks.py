"""`make run TASK=mine` and `TASK=mteb`."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.offline import content_digest
from common.data.retrieval.corpus_file import DistinctTexts, texts_of
from common.data.row_map.chunks import RowFunction, RowSeed
from common.data.row_map.mapper import RowMap, map_rows
from common.encoders.modes import evaluated
from common.encoders.state_dict import weights_digest
from common.engine.experiment import Experiment
from common.engine.progress import track
from common.engine.workspace import Workspace, write_json
from common.evaluation.retrieval.beir import load_corpus
from common.evaluation.retrieval.runs import OnDisk, words_on_disk
from common.evaluation.retrieval.text_mining import TextMiner, candidate_depth
from projects.nv_embed.config import Config
from projects.nv_embed.data.records import EmbeddingTask, with_negatives, write_task
from projects.nv_embed.data.registry import MTEB_TASKS, mteb_prompts
from projects.nv_embed.data.training_sets import (
    described,
    read_set,
    right_places,
    synthetic_tasks,
)
from projects.nv_embed.embedding_benchmark.tasks import type_averages
from projects.nv_embed.encoder.instructed import InstructedEncoder
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.overlap import set_place, spare_inputs
from projects.nv_embed.stages import build_encoder
from projects.nv_embed.teachers import load_teacher

BENCHMARK = "MTEB(eng, v1)"  # the 56 tasks of the paper
SHARD = 50_000  # documents whose embeddings are in a file
CHUNK = 2048  # queries in a file of finished negatives


def mine(cfg: Config, workspace: Workspace, experiment: Experiment[NvEmbed]) -> Path:
    """Write every retrieval and STS set with mined hard negatives as unified records.

    ``data.sets.<name>.path=<folder>/<name>.jsonl data.sets.<name>.layout=records`` trains on them.

    Raises:
        UserError: no teacher is named, or the output folder is where a set lies.
    """
    options = cfg.data.mining
    if options.teacher == "none":
        raise UserError("give a teacher: data.mining.teacher=bm25, or encoder with its folder")
    encoder = None if options.encoder is None else load_teacher(options.encoder, cfg.model)
    if cfg.data.source == "synthetic":
        tasks = synthetic_tasks(cfg)
    else:
        tasks = [read_set(cfg, name, source) for name, source in cfg.data.sets.items()]
    tasks = [task for task in tasks if task.kind in ("retrieval", "sts")]
    if not tasks:
        raise UserError(
            "data.sets has no set of retrieval or STS, which alone have mined negatives: add one"
        )
    folder = workspace.folder(".") if options.output is None else Path(options.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    spare_inputs(cfg, folder, [task.name for task in tasks], [], "data.mining.output")
    for task in tasks:
        mined = _mined(cfg, workspace, task, collection(cfg, task), encoder)
        if mined is not None:
            write_task(folder / f"{task.name}.jsonl", mined)
            workspace.say(f"{task.name}: {folder / task.name}.jsonl")
    return folder


def collection(cfg: Config, task: EmbeddingTask) -> DistinctTexts:
    """What negatives are mined from: the corpus (BEIR layout), else all documents of the file."""
    source = cfg.data.sets.get(task.name) if cfg.data.source == "sets" else None
    if source is None or source.path is None or described(task.name, source).layout != "beir":
        return DistinctTexts(task.documents())
    corpus = load_corpus(set_place(cfg, source.path))
    return DistinctTexts(task.documents(), texts_of(corpus))


def _mined(
    cfg: Config,
    workspace: Workspace,
    task: EmbeddingTask,
    documents: DistinctTexts,
    encoder: InstructedEncoder | None,
) -> EmbeddingTask | None:
    """The set with its negatives; None if other shares have to finish first."""
    options = cfg.data.mining
    right = right_places(task, documents)
    settings = {
        "documents": documents.digest,
        "teacher": options.teacher,
        "ratio": options.ratio,
        "num_negatives": options.num_negatives,
        "candidates": options.candidates,
        "instruction": task.document_instruction,
        "weights": encoder and weights_digest(encoder),
    }
    key = content_digest([repr(settings)])[:12]  # teachers may be tried one after the other
    depth = candidate_depth(options.candidates, len(documents), right)
    if depth < 1:
        raise UserError(
            f"{task.name}: every document is right for one of its queries, none is left to be a"
            " negative; give more documents"
        )
    place_of = workspace.folder(f"mined/{task.name}-{key}")
    build = partial(build_miner, cfg, documents, depth, encoder, task, place_of / "documents")
    step = RowMap(f"mine {task.name}", build, settings, cfg.seed, CHUNK)
    rows = [
        {"query": record.query, "instruction": task.instruction_of(record), "right": golds}
        for record, golds in zip(task.records, right, strict=True)
    ]
    results = map_rows(step, rows, place_of, cfg.task, workspace.meter)
    workspace.say(f"{step.name}: {results.summary}")
    if not results.complete:
        return None
    mined = list(results.rows())
    texts = [[documents[i] for i in row["negatives"]] for row in mined]
    dropped, nearest = (sum(row[name] for row in mined) for name in ("dropped", "nearest"))
    workspace.say(
        f"{task.name}: {len(texts)} queries, {sum(map(len, texts)) / len(texts):.2f} negatives"
        f" each, {dropped / max(nearest, 1):.1%} of the nearest candidates dropped as too close to"
        " the positive"
    )
    records = with_negatives(task.records, texts)
    return EmbeddingTask(task.name, task.kind, task.instruction, records, task.symmetric)


def build_miner(
    cfg: Config,
    documents: Sequence[str],
    depth: int,
    encoder: InstructedEncoder | None,
    task: EmbeddingTask,
    cache: Path,
) -> RowFunction:
    """Queries of a chunk -> places of their negatives, and what the filter took out.

    Args:
        cfg: the experiment's config.
        documents: the collection.
        depth: nearest documents that are looked at.
        encoder: the teacher; None: BM25.
        task: the set.
        cache: folder of the documents' embeddings.
    """
    options, size, instruction = cfg.data.mining, cfg.eval.batch_size, task.document_instruction
    accelerator = cfg.trainer.accelerator
    encode: dict[str, Any] = {"on_disk": words_on_disk(cfg.runs_dir)}
    if encoder is not None:
        encode["query_encoder"] = lambda texts: encoder.encode(texts, size, instruction=instruction)
        key = f"{weights_digest(encoder)} {instruction}"
        device = "cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu"
        encode["on_disk"] = OnDisk(
            cache, lambda: key, SHARD, device=device, progress=track, in_memory=0
        )

    def placed() -> AbstractContextManager[None]:
        return nullcontext() if encoder is None else evaluated(encoder, accelerator)

    with placed():  # the teacher encodes the whole collection
        miner = TextMiner(documents, depth, ratio=options.ratio, **encode)

    def mine_rows(rows: Sequence[Any], seeds: Sequence[RowSeed]) -> list[dict[str, Any]]:
        queries = [row["query"] for row in rows]
        under = None
        if encoder is not None:
            instructions = [row["instruction"] for row in rows]
            under = lambda texts: encode_queries(encoder, texts, instructions, size)  # noqa: E731
        with placed():
            mined = miner.mine(
                queries, [row["right"] for row in rows], options.num_negatives, under
            )
        counts = zip(mined.dropped.tolist(), mined.nearest.tolist(), strict=True)
        return [
            {"negatives": [i for i in indices if i >= 0], "dropped": dropped, "nearest": nearest}
            for indices, (dropped, nearest) in zip(mined.indices.tolist(), counts, strict=True)
        ]

    return mine_rows


def encode_queries(
    encoder: InstructedEncoder, queries: Sequence[str], instructions: Sequence[str], batch_size: int
) -> Tensor:
    """Queries under their instructions, (N, D)."""
    places: dict[str, list[int]] = {}
    for i, instruction in enumerate(instructions):
        places.setdefault(instruction, []).append(i)
    embeddings = torch.empty(len(queries), encoder.num_features)
    for instruction, members in places.items():
        texts = [queries[i] for i in members]
        embeddings[members] = encoder.encode(texts, batch_size, instruction=instruction).to(
            embeddings.dtype
        )
    return embeddings


def english_tasks(names: Sequence[str]) -> list[Any]:
    """Tasks as "MTEB(eng, v1)" has them: English alone, and its splits (MSMARCO's is dev).

    By name alone a task has all of its languages (STS17: 11 pairs, MassiveIntent: 51), whose mean
    is not the score of the leaderboard. What that benchmark lacks stays a name.

    Raises:
        UserError: mteb is not installed.
    """
    try:
        import mteb as library
    except ImportError as error:
        raise UserError("mteb is not installed; install the 'eval' group") from error
    by_name = {task.metadata.name: task for task in library.get_benchmark(BENCHMARK).tasks}
    return [by_name.get(name, name) for name in names]


def mteb(cfg: Config, workspace: Workspace, experiment: Experiment[NvEmbed]) -> dict[str, float]:
    """MTEB's own tasks by its library, with the registry's instructions; averages by type.

    Raises:
        UserError: no trained run, mteb is not installed, or data that cannot be had.
    """
    from common.engine.trained import trained_module
    from projects.nv_embed.embedding_benchmark.mteb import evaluate_mteb

    if cfg.eval.run == "pretrained":
        module = NvEmbed(cfg, build_encoder(cfg.model))
    else:
        module, _ = trained_module(experiment, workspace, cfg.eval.run, cfg.runs_dir)
    encoder = module.encoder
    assert isinstance(encoder, InstructedEncoder)
    names = cfg.eval.mteb_tasks or [name for tasks in MTEB_TASKS.values() for name in tasks]
    with evaluated(encoder, cfg.trainer.accelerator):
        scores = evaluate_mteb(
            encoder,
            english_tasks(names),
            workspace.folder(".") / "mteb.json",
            name="nv_embed",
            prompts=mteb_prompts(),
            batch_size=cfg.eval.batch_size,
        )
    kind_of = {name: kind for kind, tasks in MTEB_TASKS.items() for name in tasks}
    by_type: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        name = key.removeprefix("mteb_")
        by_type.setdefault(kind_of.get(name, "other").lower(), {})[name] = value
    metrics = scores | {f"mteb_{k}": v for k, v in type_averages(by_type).items()}
    write_json(workspace.folder(".") / "scores.json", metrics)
    return metrics
