"""`make run TASK=mine` and `TASK=mteb`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.retrieval.records import EmbeddingTask, with_negatives, write_task
from common.data.retrieval.registry import MTEB_TASKS, mteb_prompts
from common.encoders.modes import evaluated
from common.encoders.text.instructed import InstructedEncoder
from common.engine.experiment import Experiment
from common.engine.workspace import Workspace, write_json
from common.evaluation.retrieval.text_mining import mine_text_negatives
from common.evaluation.text.embedding_tasks import type_averages
from common.families.retrieval.training_sets import read_set, right_places, synthetic_tasks
from projects.nv_embed.config import Config
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.stages import build_encoder, load_encoder


def mine(cfg: Config, workspace: Workspace, experiment: Experiment[NvEmbed]) -> Path:
    """Write every retrieval and STS set with mined hard negatives as unified records.

    ``data.sets.<name>.path=<folder>/<name>.jsonl data.sets.<name>.layout=records`` trains on them.

    Raises:
        UserError: no teacher is named.
    """
    options = cfg.data.mining
    if options.teacher == "none":
        raise UserError("name a teacher: data.mining.teacher=bm25, or encoder with its folder")
    encoder = None if options.encoder is None else load_encoder(options.encoder, cfg.model)
    if cfg.data.source == "synthetic":
        tasks = synthetic_tasks(cfg)
    else:
        tasks = [read_set(cfg, name, own) for name, own in cfg.data.sets.items()]
    folder = workspace.folder(".") if options.output is None else Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if task.kind in ("retrieval", "sts"):
            write_task(folder / f"{task.name}.jsonl", _mined(cfg, workspace, task, encoder))
    return folder


def _mined(
    cfg: Config, workspace: Workspace, task: EmbeddingTask, encoder: InstructedEncoder | None
) -> EmbeddingTask:
    options, documents = cfg.data.mining, task.documents()
    place = {text: i for i, text in enumerate(documents)}
    encode: dict[str, Any] = {}
    if encoder is not None:
        size, told = cfg.eval.batch_size, task.document_instruction
        encode = {
            "query_encoder": lambda _: encode_queries(encoder, task, size),
            "document_encoder": lambda texts: encoder.encode(texts, size, instruction=told),
        }
    found = mine_text_negatives(
        [r.query for r in task.records], documents, right_places(task, place),
        options.num_negatives, ratio=options.ratio, candidates=options.candidates, **encode,
    )  # fmt: skip
    texts = found.texts(documents)
    workspace.note(
        f"{task.name}: {len(texts)} queries, {sum(map(len, texts)) / len(texts):.2f} negatives each, "
        f"{found.removed:.1%} of the nearest candidates dropped as too close to the positive"
    )
    records = with_negatives(task.records, texts)
    return EmbeddingTask(task.name, task.kind, task.instruction, records, task.symmetric)


def encode_queries(encoder: InstructedEncoder, task: EmbeddingTask, batch_size: int) -> Tensor:
    """Queries of a set under their instructions, (N, D)."""
    places: dict[str, list[int]] = {}
    for i, record in enumerate(task.records):
        places.setdefault(task.instruction_of(record), []).append(i)
    found = torch.empty(len(task.records), encoder.num_features)
    for told, own in places.items():
        texts = [task.records[i].query for i in own]
        found[own] = encoder.encode(texts, batch_size, instruction=told).to(found.dtype)
    return found


def mteb(cfg: Config, workspace: Workspace, experiment: Experiment[NvEmbed]) -> dict[str, float]:
    """MTEB's own tasks by its library, with the registry's instructions; averages by type.

    Raises:
        UserError: no trained run, mteb is not installed, or data that cannot be had.
    """
    from common.engine.run import trained_module
    from common.evaluation.text.mteb import evaluate_mteb

    if cfg.eval.run == "pretrained":
        module = NvEmbed(cfg, build_encoder(cfg.model))
    else:
        module, _ = trained_module(experiment, workspace, cfg.eval.run, cfg.runs_dir)
    encoder = module.encoder
    assert isinstance(encoder, InstructedEncoder)
    names = cfg.eval.mteb_tasks or [name for tasks in MTEB_TASKS.values() for name in tasks]
    with evaluated(encoder, cfg.trainer.accelerator):
        scores = evaluate_mteb(
            encoder, names, workspace.folder(".") / "mteb.json", name="nv_embed",
            prompts=mteb_prompts(), batch_size=cfg.eval.batch_size,
        )  # fmt: skip
    kind_of = {name: kind for kind, tasks in MTEB_TASKS.items() for name in tasks}
    by_type: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        name = key.removeprefix("mteb_")
        by_type.setdefault(kind_of.get(name, "other").lower(), {})[name] = value
    found = scores | {f"mteb_{k}": v for k, v in type_averages(by_type).items()}
    write_json(workspace.folder(".") / "scores.json", found)
    return found
