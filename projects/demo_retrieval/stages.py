"""Tasks, bank and stages of an experiment; what `make check` reports on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError, to_dict
from common.data.lookup import own_file
from common.data.module import ContrastiveData
from common.data.text.sets import load_sentences
from common.encoders.modes import untrained
from common.engine.experiment import Plan, Requirement, Stage, weights_requirement
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.engine.trainer import world_size
from projects.demo_retrieval.bank import (
    Bank,
    Copies,
    Demonstrations,
    key_texts,
    read_bank,
    read_passages,
)
from projects.demo_retrieval.batches import DemoRows, EvalRows, InfillRows
from projects.demo_retrieval.config import Config, PhaseConfig
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.network import build_generator, dry_generator
from projects.demo_retrieval.questions import data_set
from projects.demo_retrieval.retriever import Retriever, build_retriever
from projects.demo_retrieval.sources import Task, expand, read_task
from projects.demo_retrieval.template import Example

# settings of the trainer that trained weights depend on
TRAINED_BY = ("precision", "gradient_clip_val", "devices", "num_nodes", "ema_decay")


@dataclass(frozen=True)
class Tasks:
    """What an experiment reads.

    Attributes:
        targets: fine-tuned and tested.
        meta: of meta-training.
        bank: demonstrations.
        left_out: names of tasks that share a data set with a target.
        removed: examples of meta-training, bank and fine-tuning that are also evaluated.
    """

    targets: tuple[Task, ...]
    meta: tuple[Task, ...]
    bank: tuple[Example, ...]
    left_out: tuple[str, ...]
    removed: int

    def manifest(self) -> dict[str, Any]:
        """Names and sizes, as they are written alongside a run."""
        counts: dict[str, int] = {}
        for example in self.bank:
            counts[example.task] = counts.get(example.task, 0) + 1
        return {
            "targets": {t.name: len(t.train) for t in self.targets},
            "meta": {t.name: len(t.train) for t in self.meta},
            "bank": counts,
            "left_out": list(self.left_out),
            "removed": self.removed,
        }


def read_tasks(cfg: Config) -> Tasks:
    """Tasks of a config; no evaluated example is in meta-training, in fine-tuning or in the bank.

    Raises:
        UserError: unknown tasks, missing files, or nothing left for meta-training or a target.
    """
    data = cfg.data
    read = [read_task(n, data, cfg.seed, target=True) for n in expand(data.targets, data)]
    sets = {data_set(t.name) for t in read}
    evaluated = Copies(e for t in read for e in (*t.dev, *t.test))
    left_out: list[str] = []
    removed: dict[str, int] = {}

    def clean(task: Task) -> Task:
        kept = tuple(e for e in task.train if not evaluated.of(e))
        removed[task.name] = len(task.train) - len(kept)
        return replace(task, train=kept)

    # official splits repeat texts, too, and a target may repeat those of another one
    targets = tuple(clean(t) for t in read)
    if empty := [t.name for t in targets if not t.train]:
        raise UserError(
            f"all training examples of {', '.join(empty)} are evaluated: choose other data.targets"
            " or another data.split_seed"
        )
    by_name: dict[str, Task] = {t.name: t for t in targets}

    def allowed(names: Sequence[str]) -> list[Task]:
        targets_read = []
        for name in expand(names, data):
            if name in {t.name for t in targets}:
                continue  # a target has its few examples alone
            if data.exclude_eval_tasks and data_set(name) in sets:
                left_out.append(name)
                continue
            if name not in by_name:
                by_name[name] = clean(read_task(name, data, cfg.seed))
            targets_read.append(by_name[name])
        return [t for t in targets_read if t.train]

    meta = allowed(data.meta) if cfg.meta else []
    if cfg.meta and not meta:
        raise UserError(
            "no task of data.meta is left without the targets: see data.exclude_eval_tasks"
        )
    kind = cfg.method.selection
    if kind == "passages":
        bank = read_passages(own_file(str(data.passages), data.root, "passages"))
    elif data.bank_file is not None:
        targets_read = read_bank(own_file(data.bank_file, data.root, "demonstrations"))
        names, shared = {t.name for t in targets}, data.exclude_eval_tasks
        barred = {
            e.task for e in targets_read if e.task in names or (shared and data_set(e.task) in sets)
        }
        left_out += sorted(barred - names)  # the targets' own few examples come below
        kept = [e for e in targets_read if e.task not in barred]
        bank = [e for e in kept if not evaluated.of(e)]
        removed["bank_file"] = len(kept) - len(bank)
    else:
        # random demonstrations are of an input's own task, whether or not the bank holds it
        sources = [*data.bank, *data.meta] if kind == "random_task" else data.bank
        bank = [e for t in allowed(sources) for e in t.train]
    if kind == "random_task" or (data.bank_targets and kind != "passages"):
        bank += [e for t in targets for e in t.train]
    return Tasks(
        targets, tuple(meta), tuple(bank), tuple(dict.fromkeys(left_out)), sum(removed.values())
    )


def make_bank(cfg: Config, tasks: Tasks, retriever: Retriever | None = None) -> Bank | None:
    """The bank of a config with its index; None without demonstrations."""
    if cfg.method.selection == "none":
        return None
    settings = cfg.retriever
    retriever = retriever or build_retriever(
        settings, lambda: key_texts(tasks.bank, settings.key), cfg.trainer.accelerator
    )
    return Bank(tasks.bank, retriever, settings.key, settings.cache)


def demonstrations_of(cfg: Config, bank: Bank | None) -> Demonstrations:
    """Which demonstrations the inputs of a config get."""
    return Demonstrations(bank, cfg.method.selection, cfg.method.k, cfg.retriever.scale)


def build_module(cfg: Config, bank: Bank | None) -> DemoRetrieval:
    """Module before training."""
    return DemoRetrieval(cfg, *build_generator(cfg.model), bank)


def stages(cfg: Config) -> Iterator[Stage]:
    """Denoising (where a decoder is new), meta-training, fine-tuning."""
    tasks = read_tasks(cfg)
    bank = make_bank(cfg, tasks)
    # the same weights to begin with, whatever bank and retriever have drawn
    module = untrained(lambda: build_module(cfg, bank), cfg.seed).train()
    if cfg.denoise.max_steps:
        yield from denoising(cfg, module)
    if cfg.meta:
        module.optim = cfg.optim
        rows = rows_of(cfg, module, tasks.meta, cfg.data.batch_size)
        # the targets' development examples choose no step here: they are for fine-tuning alone
        yield stage("meta", cfg, module, rows, tasks, cfg.data.batch_size, None, {})
    settings = cfg.finetune
    if settings.max_steps or cfg.finetune_epochs:
        length: dict[str, Any] = (
            {"max_steps": settings.max_steps}
            if settings.max_steps
            else {"max_epochs": cfg.finetune_epochs}
        )
        length["accumulate_grad_batches"] = settings.accumulate_grad_batches
        module.optim = phase_optim(cfg, settings)
        rows = rows_of(cfg, module, tasks.targets, settings.batch_size)
        yield stage(
            "finetune",
            cfg,
            module,
            rows,
            tasks,
            settings.batch_size,
            settings.val_every_n_steps,
            length,
        )


def phase_optim(cfg: Config, phase: PhaseConfig) -> Any:
    """The optimiser of meta-training with a stage's own rate."""
    warmup = min(cfg.optim.warmup_steps, max(0, phase.max_steps // 10)) if phase.max_steps else 0
    lr = cfg.optim.lr if phase.lr is None else phase.lr
    return replace(cfg.optim, lr=lr, warmup_steps=warmup, warmup_epochs=0.0)


def rows_of(cfg: Config, module: DemoRetrieval, tasks: Sequence[Task], batch_size: int) -> DemoRows:
    """Training rows of tasks."""
    assert module.encoder is not None
    return DemoRows(
        tasks,
        module.encoder,
        demonstrations_of(cfg, module.bank),
        seed=cfg.seed,
        cap=cfg.data.task_cap,
        uniform_mixing=cfg.data.mixing == "uniform",
        global_batch_size=batch_size * world_size(cfg.trainer),
    )


def stage(
    name: str,
    cfg: Config,
    module: DemoRetrieval,
    rows: DemoRows,
    tasks: Tasks,
    batch_size: int,
    every: int | None,
    trainer: dict[str, Any],
) -> Stage:
    """A stage on rows; with validation the step that answers best on development examples is kept.

    Raises:
        UserError: no development example, or fewer rows than a batch.
    """
    assert module.encoder is not None
    fills(cfg, len(rows), batch_size, f"{'data' if name == 'meta' else name}.batch_size")
    val: dict[str, Dataset[Any]] = {}
    if every is not None:
        dev = [e for t in tasks.targets for e in t.dev]
        if not dev:
            raise UserError("validation needs development examples: set data.dev_shots")
        val["dev"] = EvalRows(dev, module.encoder, demonstrations_of(cfg, module.bank), cfg.seed)
    data = ContrastiveData(
        rows,
        batch_size=batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
        shuffle=False,  # the mixture has shuffled already
    )
    monitor = None if every is None else "val/f1"
    return Stage(name, module, data, {**trainer, "val_every_n_steps": every}, monitor)


def fills(cfg: Config, count: int, batch_size: int, key: str) -> None:
    """Refuse fewer examples than a batch of all processes.

    Raises:
        UserError: names the setting.
    """
    # not those of the process group, which the trainer has not formed yet
    processes = world_size(cfg.trainer)
    if count < batch_size * processes:
        raise UserError(
            f"{count} examples do not fill a batch of {batch_size} on {processes} process(es):"
            f" lower {key}"
        )


# -- denoising -----------------------------------------------------------------------------------


def denoising(cfg: Config, module: DemoRetrieval) -> Iterator[Stage]:
    """Text infilling with plain sentences, or the weights of a run that did the same."""
    settings = cfg.denoise
    assert module.encoder is not None
    module.optim = phase_optim(cfg, settings)
    if "made_up_qa" in cfg.data.targets:
        sentences = [e.context for t in read_tasks(cfg).targets for e in t.train]
    else:
        sentences = load_sentences(cfg.data.root, limit=settings.sentences, seed=cfg.seed)
    fills(cfg, len(sentences), settings.batch_size, "denoise.batch_size")
    data = ContrastiveData(
        InfillRows(sentences, module.encoder, settings, cfg.seed),
        batch_size=settings.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )
    weights = denoised_path(cfg)
    trainer = {
        "max_steps": settings.max_steps,
        "val_every_n_steps": None,
        "accumulate_grad_batches": settings.accumulate_grad_batches,
    }
    yield Stage("denoise", module, data, trainer, weights=weights if weights.is_file() else None)
    keep_weights(weights, module)


def denoised_path(cfg: Config) -> Path:
    """Path of the denoised generator, by settings, seed and code."""
    plain = to_dict(cfg)
    parts: dict[str, Any] = {name: plain[name] for name in ("model", "denoise", "seed")}
    parts["optim"] = plain["optim"] | {"lr": phase_optim(cfg, cfg.denoise).lr}
    parts["trainer"] = {name: plain["trainer"][name] for name in TRAINED_BY}
    parts["data"] = [
        cfg.data.root,
        cfg.data.max_source,
        cfg.data.max_target,
        "made_up_qa" in cfg.data.targets,
    ]
    return kept_path(
        Path(cfg.runs_dir) / "demo_retrieval" / "offline", "denoise", "demo_retrieval", parts
    )


# -- make check ----------------------------------------------------------------------------------


def plan(cfg: Config) -> Plan[DemoRetrieval]:
    """What `make check` reports on."""
    needed: list[Requirement] = []
    for name in (
        cfg.model.encoder or cfg.model.pretrained,
        cfg.retriever.question,
        cfg.retriever.context,
    ):
        needed += weights_requirement(name) if name else ()
    count = 0
    try:
        tasks = read_tasks(cfg)
        count = sum(min(len(t.train), cfg.data.task_cap) for t in tasks.meta or tasks.targets)
    except UserError as error:
        needed.append(
            Requirement("data: tasks and bank", cfg.data.root or "data", False, str(error))
        )

    def module() -> DemoRetrieval:
        if torch.get_default_device().type == "meta":
            return DemoRetrieval(cfg, dry_generator(cfg.model), None)
        return build_module(cfg, make_bank(cfg, read_tasks(cfg)))  # for the weights of a checkpoint

    def forward(module: DemoRetrieval, batch_size: int) -> Tensor:
        data, copies = cfg.data, demonstrations_of(cfg, None).k
        ids = torch.ones(batch_size * copies, data.max_source, dtype=torch.long)
        target = torch.ones(batch_size * copies, data.max_target, dtype=torch.long)
        # in training BART draws which layers it drops, and meta tensors have no values
        module.network.eval()
        logits: Tensor = module.network(input_ids=ids, decoder_input_ids=target).logits
        return logits.sum()

    return Plan(module, count, forward, tuple(needed))
