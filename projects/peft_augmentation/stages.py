"""Training: the small set with its copies, and the classifier; what `make check` builds."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.text.labelled.batches import ClassBatches, Copies, EvaluationTexts
from common.data.text.labelled.readers import LabelledSet
from common.data.text.labelled.tasks import TASKS
from common.data.text.pairs.tasks import TASKS as PAIR_TASKS
from common.data.text.wordnet import SOURCE as WORDNET
from common.data.text.wordnet import wordnet_folder, wordnet_synonyms
from common.engine.experiment import (
    Plan,
    Requirement,
    Stage,
    bundled_requirement,
    weights_requirement,
)
from projects.peft_augmentation.augmentation.copies import cached_copies, eda_copies
from projects.peft_augmentation.classification.module import (
    build_classifier,
    first_classifier,
    labelled_parts,
)
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.module import PeftAugmentation

_BUNDLED = {
    "banking77": "intents",
    "banking10": "intents",
    "snips": "intents",
    "bigram_shift": "sentences-en",
}


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage; the best step on the development examples is kept if there are any."""
    module = PeftAugmentation(cfg, first_classifier(cfg))
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/score"
    yield Stage("train", module, training_data(cfg, module), monitor=monitor)


def training_data(cfg: Config, module: PeftAugmentation) -> ContrastiveData:
    """Shuffled training examples, each with a copy where there are any.

    Development examples as read.
    """
    train, dev = labelled_parts(cfg.data, cfg.seed)
    val: dict[str, Dataset[Any]] = {}
    if dev is not None and cfg.trainer.val_every_n_steps is not None:
        val["dev"] = EvaluationTexts(dev)
    batches = ClassBatches(train, module.classifier, copies_of_training(cfg, train), cfg.seed)
    return ContrastiveData(
        batches,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def copies_of_training(cfg: Config, train: LabelledSet) -> Copies | None:
    """Copies of the training examples alone, by the config's method.

    None: a batch has no second view.

    Raises:
        UserError: see `cached_copies`.
    """
    augment, reworded = cfg.augment, cfg.data.labelled_task.reworded
    if augment.kind == "eda":
        synonyms = wordnet_synonyms(augment.wordnet, cfg.data.root, hyphens=False)
        return eda_copies(
            train, synonyms, reworded, alpha=augment.alpha, copies=augment.copies, seed=cfg.seed
        )
    if augment.kind == "back_translation":
        return cached_copies(train, str(augment.cache), reworded)
    return [[] for _ in train.texts] if augment.repeat else None


def plan(cfg: Config) -> Plan[PeftAugmentation]:
    """What `make check` reports on."""

    def forward(module: PeftAugmentation, batch_size: int) -> Tensor:
        rows = batch_size * (2 if cfg.augment.doubles else 1)
        ids = torch.ones(rows, cfg.model.max_length, dtype=torch.long)
        classifier = module.classifier
        # without a mask: transformers looks at its values, and meta tensors have none
        output = classifier.backbone(input_ids=ids, **classifier.prefix_inputs(rows))
        total: Tensor = output.last_hidden_state.sum()
        return total

    needed = requirements(cfg)
    return Plan(
        lambda: PeftAugmentation(cfg, build_classifier(cfg, True)), _count(cfg), forward, needed
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """Data and weights that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.task in _BUNDLED:
        needs.append(bundled_requirement(_BUNDLED[cfg.data.task]))
    elif cfg.data.task != "synthetic":
        here = bool(_count(cfg))
        root, hint = data_root(cfg.data.root), "columns text, label"
        if cfg.data.task != "file":
            name = cfg.data.task
            own = TASKS[name].files.get("train")
            train = PAIR_TASKS[name].files["train"][0] if own is None else own
            root /= f"{'super_glue' if train.endswith('.jsonl') else 'glue_data'}/{train}"
            hint = "GLUE and SuperGLUE, see the card"
        needs.append(Requirement(f"data: {cfg.data.task}", str(root), here, hint))
    if cfg.augment.kind == "eda" and cfg.augment.wordnet is not None:
        path = wordnet_folder(cfg.augment.wordnet, cfg.data.root)
        here = (path / "data.noun").is_file()
        needs.append(Requirement("data: WordNet", str(path), here, WORDNET))
    return tuple(needs)


def _count(cfg: Config) -> int:
    """Training examples; 0 where they are not here."""
    try:
        return len(labelled_parts(cfg.data, cfg.seed)[0])
    except UserError:
        return 0
