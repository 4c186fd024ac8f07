"""Fine-tuning on a task, and its official metric.

# B examples, L tokens, S slots
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.damage import reading
from common.data.lookup import data_root, own_file
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from common.data.text.masking import IGNORED
from common.distributed.process import gather_objects
from common.encoders.modes import evaluated
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.losses.functional.soft import symmetric_kl
from projects.space2.config import Config
from projects.space2.dialog_metrics import LabelMaps
from projects.space2.dialogs.tasks import Example, read_examples
from projects.space2.dialogs.turns import Part
from projects.space2.heads import TaskHead, r_drop, state_loss, tag_loss
from projects.space2.network import Space2Network, build_network
from projects.space2.rows import TaskBatches
from projects.space2.scoring import METRICS, check_known, predictions, score

_SUBSET_STREAM = 2**31 + 75


class Finetune(ContrastiveModule):
    """L = CE of two dropout copies + kl_weight * KL between them + mlm_weight * L_mlm.

    One copy without KL.

    Source: He et al. 2022, released `IntentUnifiedTransformer`, arXiv 2209.06638.

    Args:
        cfg: the experiment's config.
        network: encoder.
        head: of the task.

    Distributed: local.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, network: Space2Network, head: TaskHead) -> None:
        super().__init__(cfg.optim)
        self.network, self.head, self.task = network, head, cfg.task
        self.only_words = False  # masked prediction alone
        self.batch_size = cfg.eval.batch_size
        self.maps: LabelMaps = {}  # of states' values, read with the data
        self.dialogs: list[list[Example]] = []  # of the development part, if there is validation
        self._seen: list[int] = []
        # DDP wants a gradient of all that is trained
        network.projection.requires_grad_(False)
        network.words.requires_grad_(bool(cfg.task.mlm_weight))

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss and terms of a batch."""
        task, inputs = self.task, batch["inputs"]
        terms: dict[str, Tensor] = {}
        if not self.only_words:
            copies = 2 if task.kl_weight else 1
            rows = {name: x.repeat(copies, 1) for name, x in inputs.items()}
            logits = self.head(self.network.encoder(**rows), batch["aux"].repeat(copies, 1))
            terms = task_loss(
                self.head.kind, logits, batch["targets"], task.kl_weight, task.class_loss_ratio
            )
        weight = 1.0 if self.only_words else task.mlm_weight
        if weight:
            mlm = self.network.masked_lm(inputs, batch["masked"], batch["words"])
            terms |= {"mlm": mlm, "loss": terms.get("loss", 0.0) + weight * mlm}
        if self.only_words:
            terms["loss"] = terms["loss"] + 0 * sum(p.sum() for p in self.head.parameters())
        return terms

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Collect the places of dialogues, each of which is answered as a whole."""
        self._seen += batch.tolist()

    def on_validation_epoch_end(self) -> None:
        """Log the task's metric over the examples of all ranks, as ``val/score``."""
        examples = [example for i in self._seen for example in self.dialogs[i]]
        self._seen = []
        pairs = predictions(self.network, self.head, examples, self.batch_size, self.maps)
        every = [pair for part in gather_objects(pairs) for pair in part]
        self.log("val/score", score(self.head.kind, every, self.maps)[0])


def task_loss(
    kind: str,
    logits: dict[str, Tensor],
    labels: dict[str, Tensor],
    kl_weight: float,
    ratio: float = 0.8,
) -> dict[str, Tensor]:
    """The loss of a task on stacked copies, (2B, ...) logits for (B, ...) labels.

    On one copy without KL.
    """
    copies = len(next(iter(logits.values()))) // len(next(iter(labels.values())))
    if kind == "dst":
        loss = state_loss(logits, {name: x.repeat(copies, 1) for name, x in labels.items()}, ratio)
        terms = {"loss": loss, "ce": loss}
        if kl_weight:
            pairs = [logits[name].chunk(2) for name in ("gate", "refer")]
            kl = torch.stack(
                [symmetric_kl(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs]
            ).sum()
            terms |= {"kl": kl, "loss": loss + kl_weight * kl}
        return terms
    terms = {}
    if "intent" in logits:
        terms = r_drop(logits["intent"], labels["intent"], kl_weight)
    if "tags" in logits:
        ce = tag_loss(logits["tags"], labels["tags"].repeat(copies, 1))
        terms |= {"loss": terms.get("loss", 0.0) + ce, "tags_ce": ce}
        if kl_weight:
            first, second = logits["tags"].chunk(2)
            tagged = labels["tags"] != IGNORED
            kl = symmetric_kl(first[tagged], second[tagged])
            terms |= {"loss": terms["loss"] + kl_weight * kl, "tags_kl": kl}
    return terms


# -- data and building ---------------------------------------------------------------------------


def task_examples(cfg: Config, part: Part) -> list[Example]:
    """Examples of a part; of the training part perhaps some, drawn by the seed.

    Raises:
        UserError: see `read_examples`; an intent with fewer examples than are wanted of each.
    """
    task, train = cfg.task, part == "train"
    folder = None if task.folder is None else data_root(cfg.data.root) / task.folder
    examples = read_examples(
        task.kind,
        task.source,
        part,
        cfg.data.root,
        folder,
        cfg.seed,
        task.train_file if train else None,
        task.delexicalize,
    )
    if not train or (task.examples is None and task.per_intent is None):
        return examples
    order = sample_rng(cfg.seed, 0, 0, _SUBSET_STREAM).permutation(len(examples)).tolist()
    if task.per_intent is None:
        return [examples[i] for i in sorted(order[: task.examples])]
    places: dict[str, list[int]] = {}
    for i in order:
        places.setdefault(examples[i].intent, []).append(i)
    few = [name for name, rows in places.items() if len(rows) < task.per_intent]
    if few:
        raise UserError(
            f"task.per_intent={task.per_intent}: {min(few)} has {len(places[min(few)])} examples;"
            " lower it"
        )
    return [
        examples[i] for i in sorted(i for rows in places.values() for i in rows[: task.per_intent])
    ]


def label_maps(cfg: Config) -> LabelMaps:
    """Variants of state values from a JSON file: {value: [...]}, or under "label_maps".

    Raises:
        UserError: no such file, or another form.
    """
    if cfg.task.label_maps is None:
        return {}
    path = own_file(cfg.task.label_maps, cfg.data.root, "variants of values")
    with reading(path, "file of variants of values"):
        content = json.loads(path.read_text("utf-8"))
    maps = content.get("label_maps", content) if isinstance(content, dict) else None
    if not isinstance(maps, dict) or not all(isinstance(v, list) for v in maps.values()):
        raise UserError(f"task.label_maps: {path} must be {{value: [other ways to write it, ...]}}")
    return {str(value): [str(way) for way in ways] for value, ways in maps.items()}


def build_finetune(cfg: Config, planned: bool = False) -> Finetune:
    """Network and a new head for the names of the training part.

    Raises:
        UserError: see `build_network` and `task_examples`.
    """
    network = build_network(cfg, planned)
    try:
        train = task_examples(cfg, "train")
    except UserError:
        if not planned:
            raise
        train = [Example((), "?", ("?",), ("O",), state={"?": "?"})]
    names = sorted({e.intent for e in train}) if cfg.task.kind in ("intent", "top") else []
    tags = (
        sorted({t for e in train for t in e.tags} | {"O"})
        if cfg.task.kind in ("slot", "top")
        else []
    )
    slots = sorted({s for e in train for s in e.state}) if cfg.task.kind == "dst" else []
    if cfg.task.kind == "dst" and not slots:
        raise UserError(
            "no state of the training part has a value: look at the slots' names, see the card"
        )
    head = TaskHead(
        cfg.task.kind, network.encoder.num_features, names, tags, slots, cfg.task.head_dropout
    )
    return Finetune(cfg, network, head)


class Places(Dataset[int]):
    """The numbers 0 ... N - 1, for the loader to share out."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return place


def task_batches(cfg: Config, module: Finetune, validates: bool = False) -> ContrastiveData:
    """Shuffled batches of the training part.

    The development part by its dialogues if it is validated on.
    """
    module.maps = label_maps(cfg)
    batches = TaskBatches(
        task_examples(cfg, "train"), module.network.texts, module.head, cfg.seed, module.maps
    )
    val = {}
    if validates:
        examples = task_examples(cfg, "dev")
        check_known(examples, module.head)
        dialogs: dict[str, list[Example]] = {}
        for i, example in enumerate(examples):  # a state needs those of its dialogue before it
            dialogs.setdefault(example.dialog or str(i), []).append(example)
        module.dialogs = list(dialogs.values())
        val["dev"] = Places(len(dialogs))
    return ContrastiveData(
        batches,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
    )


def words_alone(module: Finetune, cfg: Config) -> None:
    """Masked prediction alone, at a constant rate, for a short stage."""
    module.only_words = True
    module.network.words.requires_grad_(True)
    module.optim = replace(
        cfg.optim, schedule="constant", warmup_steps=0, warmup_epochs=0.0, decay_steps=0
    )


def whole_loss(module: Finetune, cfg: Config) -> None:
    """Back to the task's loss and schedule."""
    module.only_words, module.optim = False, cfg.optim
    module.network.words.requires_grad_(bool(cfg.task.mlm_weight))


# -- evaluation ----------------------------------------------------------------------------------


def evaluate_task(cfg: Config, module: Finetune, workspace: Workspace) -> dict[str, float]:
    """Accuracy (intent), macro F1 (slot), exact match (top) or joint goal accuracy (dst)."""
    kind, maps = cfg.task.kind, label_maps(cfg)
    examples = task_examples(cfg, cfg.eval.part)
    check_known(examples, module.head)
    with evaluated(module, cfg.trainer.accelerator):
        pairs = predictions(module.network, module.head, examples, cfg.eval.batch_size, maps)
    name = f"{cfg.eval.part}_{METRICS[kind]}"
    value, items = score(kind, pairs, maps)
    if items:
        workspace.items(name, items)
    metrics = {name: value}
    if kind == "intent":
        counts = np.unique([e.intent for e in examples], return_counts=True)[1]
        metrics[f"{name}_chance"] = float(counts.max() / counts.sum())
    return metrics
