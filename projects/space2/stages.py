"""Pre-training, or masked prediction on a task's texts and fine-tuning.

What `make check` builds.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import data_root
from common.encoders.modes import untrained
from common.engine.experiment import (
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    weights_requirement,
)
from common.engine.module import ContrastiveModule
from projects.space2.config import Config
from projects.space2.data import count_examples, training_data
from projects.space2.evaluate import scored_folder
from projects.space2.finetune import (
    build_finetune,
    task_batches,
    task_examples,
    whole_loss,
    words_alone,
)
from projects.space2.module import Space2
from projects.space2.network import build_network


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage of pre-training; or ``mlm`` (optional) and ``finetune`` with new optimisers.

    With `trainer.val_every_n_steps` the checkpoint that is best on the development part counts.
    """
    if cfg.train == "pretrain":
        if cfg.data.source == "corpora":
            scored_folder(cfg)  # what is missing is said now, not after the training
        network = untrained(lambda: build_network(cfg), cfg.seed).train()
        yield Stage("train", Space2(cfg, network), training_data(cfg, network.texts))
        return
    module = untrained(lambda: build_finetune(cfg), cfg.seed).train()
    if cfg.task.mlm_pre_epochs:
        words_alone(module, cfg)
        length = {"max_epochs": cfg.task.mlm_pre_epochs, "max_steps": None}
        yield Stage("mlm", module, task_batches(cfg, module), length)
        whole_loss(module, cfg)
    validates = cfg.trainer.val_every_n_steps is not None
    yield Stage(
        "finetune",
        module,
        task_batches(cfg, module, validates),
        monitor="val/score" if validates else None,
    )


def plan(cfg: Config) -> Plan[ContrastiveModule]:
    """What `make check` reports on."""

    def module() -> ContrastiveModule:
        return (
            Space2(cfg, build_network(cfg, True))
            if cfg.train == "pretrain"
            else build_finetune(cfg, True)
        )

    def forward(module: Any, batch_size: int) -> Tensor:
        factor = 1 if cfg.train == "finetune" or cfg.method.learning != "semi" else 2
        ids = torch.zeros(2 * factor * batch_size, cfg.data.max_length + 1, dtype=torch.long)
        encoder = module.network.encoder
        total = encoder.embeddings.summed(ids, ids, ids, ids)
        # without a mask: transformers looks at its values, and meta tensors have none
        total_state: Tensor = encoder.backbone(inputs_embeds=total).last_hidden_state.sum()
        return total_state

    return Plan(module, _count(cfg), forward, requirements(cfg))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Data and weights that the config needs."""
    needs, data = list(weights_requirement(cfg.model.pretrained)), cfg.data
    if cfg.train == "pretrain" and data.source == "bundled":
        needs += [bundled_requirement("dialog-sgd"), bundled_requirement("intents")]
    if cfg.train == "pretrain" and data.source == "corpora":
        for name in (data.labelled, data.unlabelled)[: 1 if cfg.method.learning == "super" else 2]:
            place = _root(cfg) / name
            hint = "AlibabaResearch/DAMO-ConvAI, space-2: one folder a corpus with train.json"
            needs.append(Requirement(f"data: {name}", str(place), place.is_dir(), hint))
    if cfg.train == "finetune" and cfg.task.folder is not None:
        place = _root(cfg) / cfg.task.folder
        if cfg.task.label_maps is not None:
            maps = _root(cfg) / cfg.task.label_maps
            needs.append(
                Requirement(
                    f"data: {cfg.task.label_maps}",
                    str(maps),
                    maps.is_file(),
                    "TripPy, dataset_config/multiwoz21.json",
                )
            )
        needs.append(
            Requirement(
                f"data: {cfg.task.folder}",
                str(place),
                place.is_dir(),
                "alexa/dialoglue, data_utils/dialoglue",
            )
        )
    return tuple(needs)


def _root(cfg: Config) -> Any:
    try:
        return data_root(cfg.data.root)
    except UserError:  # said by the requirement that is not met
        from pathlib import Path

        return Path(cfg.data.root or "data")


def _count(cfg: Config) -> int:
    """Training examples; 0 where they are not here."""
    try:
        return count_examples(cfg) if cfg.train == "pretrain" else len(task_examples(cfg, "train"))
    except UserError:
        return 0
