"""Fine-tuning on a task, and its official metric.

# B examples, L tokens, S slots
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from common.data.text.dialogs.encoding import DialogTokenizer
from common.data.text.dialogs.tasks import Example, read_examples
from common.data.text.dialogs.turns import Part
from common.data.text.masking import IGNORED
from common.encoders.modes import evaluated
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace
from common.evaluation.text.dialog_tasks import exact_match, joint_goal, slot_macro_f1, told_value
from common.losses.functional.soft import symmetric_kl
from projects.space2.config import Config
from projects.space2.heads import GATES, TaskHead, state_loss, tag_loss
from projects.space2.network import Space2Network, build_network
from projects.space2.objective import r_drop
from projects.space2.rows import TaskBatches, TaskRow, collate, word_row

_SUBSET_STREAM = 2**31 + 75


class Finetune(ContrastiveModule):
    """L = CE of two dropout copies + kl_weight * KL between them + mlm_weight * L_mlm.

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
        # DDP wants a gradient of all that is trained
        network.projection.requires_grad_(False)
        network.words.requires_grad_(bool(cfg.task.mlm_weight or cfg.task.mlm_pre_steps))

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss and terms of a batch."""
        own, inputs = self.task, batch["inputs"]
        found: dict[str, Tensor] = {}
        if not self.only_words:
            twice = {name: x.repeat(2, 1) for name, x in inputs.items()}
            logits = self.head(self.network.encoder(**twice), batch["aux"].repeat(2, 1))
            found = task_loss(self.head.kind, logits, batch["targets"], own.kl_weight, own.class_loss_ratio)  # fmt: skip
        weight = 1.0 if self.only_words else own.mlm_weight
        if weight:
            mlm = self.network.masked_lm(inputs, batch["masked"], batch["words"])
            found |= {"mlm": mlm, "loss": found.get("loss", 0.0) + weight * mlm}
        if self.only_words:
            found["loss"] = found["loss"] + 0 * sum(p.sum() for p in self.head.parameters())
        return found


def task_loss(kind: str, logits: dict[str, Tensor], labels: dict[str, Tensor], kl_weight: float, ratio: float = 0.8) -> dict[str, Tensor]:  # fmt: skip
    """The loss of a task on two stacked copies, (2B, ...) logits for (B, ...) labels."""
    if kind == "dst":
        loss = state_loss(logits, {name: x.repeat(2, 1) for name, x in labels.items()}, ratio)
        found = {"loss": loss, "ce": loss}
        if kl_weight:
            pairs = [logits[name].chunk(2) for name in ("gate", "refer")]
            kl = torch.stack(
                [symmetric_kl(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs]
            ).sum()
            found |= {"kl": kl, "loss": loss + kl_weight * kl}
        return found
    found = {}
    if "intent" in logits:
        found = r_drop(logits["intent"], labels["intent"], kl_weight)
    if "tags" in logits:
        ce = tag_loss(logits["tags"], labels["tags"].repeat(2, 1))
        first, second = logits["tags"].chunk(2)
        tagged = labels["tags"] != IGNORED
        kl = symmetric_kl(first[tagged], second[tagged])
        found["loss"] = found.get("loss", 0.0) + ce + kl_weight * kl
        found |= {"tags_ce": ce, "tags_kl": kl}
    return found


# -- data and building ---------------------------------------------------------------------------


def task_examples(cfg: Config, part: Part) -> list[Example]:
    """Examples of a part; of the training part perhaps some, drawn by the seed.

    Raises:
        UserError: see `read_examples`.
    """
    own = cfg.task
    folder = None if own.folder is None else data_root(cfg.data.root) / own.folder
    found = read_examples(own.kind, own.source, part, cfg.data.root, folder, cfg.seed)
    if part == "train" and own.examples is not None and own.examples < len(found):
        order = sample_rng(cfg.seed, 0, 0, _SUBSET_STREAM).permutation(len(found))
        found = [found[int(i)] for i in sorted(order[: own.examples])]
    return found


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
    tags = sorted({t for e in train for t in e.tags} | {"O"}) if cfg.task.kind in ("slot", "top") else []  # fmt: skip
    slots = sorted({s for e in train for s in e.state}) if cfg.task.kind == "dst" else []
    head = TaskHead(cfg.task.kind, network.encoder.num_features, names, tags, slots, cfg.task.head_dropout)  # fmt: skip
    return Finetune(cfg, network, head)


def task_batches(cfg: Config, module: Finetune) -> ContrastiveData:
    """Shuffled batches of the training part."""
    batches = TaskBatches(task_examples(cfg, "train"), module.network.texts, module.head, cfg.seed)
    return ContrastiveData(batches, batch_size=cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip


# -- evaluation ----------------------------------------------------------------------------------


def evaluate_task(cfg: Config, module: Finetune, workspace: Workspace) -> dict[str, float]:
    """Accuracy (intent), macro F1 (slot), exact match (top) or joint goal accuracy (dst)."""
    part = cfg.eval.part
    examples = task_examples(cfg, part)
    check_known(examples, module.head)
    with evaluated(module, cfg.trainer.accelerator):
        if cfg.task.kind == "dst":
            states = track(module.network, module.head, examples, cfg.eval.batch_size)
            items = joint_goal(states, [e.state for e in examples])
            workspace.items(f"{part}_joint_goal_accuracy", items)
            return {f"{part}_joint_goal_accuracy": float(np.mean(items))}
        told = answers(module.network, module.head, examples, cfg.eval.batch_size)
    gold = [(e.intent, e.tags) for e in examples]
    if cfg.task.kind == "slot":
        return {f"{part}_macro_f1": slot_macro_f1([tags for _, tags in told], [tags for _, tags in gold])}  # fmt: skip
    name = f"{part}_exact_match" if cfg.task.kind == "top" else f"{part}_accuracy"
    items = exact_match(told, gold) if cfg.task.kind == "top" else [float(t[0] == g[0]) for t, g in zip(told, gold, strict=True)]  # fmt: skip
    workspace.items(name, items)
    found = {name: float(np.mean(items))}
    if cfg.task.kind == "intent":
        counts = np.unique([g[0] for g in gold], return_counts=True)[1]
        found[f"{name}_chance"] = float(counts.max() / counts.sum())
    return found


def check_known(examples: Sequence[Example], head: TaskHead) -> None:
    """Refuse a part of another set; single names that the training part lacked just count as wrong.

    Raises:
        UserError: no intent of the part is one of the head's.
    """
    if head.intents is not None and not any(e.intent in head.names for e in examples):
        raise UserError("no example of the scored part has an intent that was trained on")


def answers(network: Space2Network, head: TaskHead, examples: Sequence[Example], batch_size: int) -> list[tuple[str, tuple[str, ...]]]:  # fmt: skip
    """Intent ("" without) and tag of every word (() without) of each example, in eval mode."""
    found = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        rows = [unlabelled_row(e, network.texts, head) for e in part]
        logits = run_head(network, head, rows)
        intents = logits["intent"].argmax(1).tolist() if "intent" in logits else [None] * len(part)
        for i, row in enumerate(rows):
            tags: tuple[str, ...] = ()
            if "tags" in logits:
                places = row.labels["first"]
                best = logits["tags"][i].argmax(-1)
                tags = tuple(head.tag_names[int(best[p])] if p >= 0 else "O" for p in places)
            intent = intents[i]
            found.append(("" if intent is None else head.names[intent], tags))
    return found


def unlabelled_row(example: Example, texts: DialogTokenizer, head: TaskHead) -> TaskRow:
    """Tokens of an example without a look at its answers; ``first``: places of its words."""
    if example.words:
        row, first = word_row(example.words, texts)
        return TaskRow(row, {"first": first}, np.zeros(0))
    row = texts.row(texts.utterances(example.turns), example.turns[-1].user)
    return TaskRow(row, {"first": np.zeros(0)}, np.zeros(2 * len(head.slots)))


def run_head(network: Space2Network, head: TaskHead, rows: Sequence[TaskRow], aux: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
    """Logits on the CPU."""
    batch = collate([TaskRow(r.row, {}, r.aux) for r in rows], network.texts)
    inputs = {name: x.to(network.device) for name, x in batch["inputs"].items()}
    with torch.no_grad():
        logits = head(network.encoder(**inputs), (batch["aux"] if aux is None else aux).to(network.device))  # fmt: skip
    return {name: x.float().cpu() for name, x in logits.items()}


def track(network: Space2Network, head: TaskHead, examples: Sequence[Example], batch_size: int = 128) -> list[dict[str, str]]:  # fmt: skip
    """State after each turn, carried on from the model's own states turn by turn.

    The n-th turns of all dialogues are read together, since each needs the state before it.

    Source: Heck et al. 2020, section 3.5, arXiv 2005.02877; `told_value` reads informed and
    referred values with the gold one at hand, as the released metric does.
    """
    states: list[dict[str, str]] = [{} for _ in examples]
    order: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        order.setdefault(example.dialog, []).append(i)
    for n in range(max(map(len, order.values()))):
        places = [own[n] for own in order.values() if n < len(own)]
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            before = [states[order[examples[i].dialog][n - 1]] if n else {} for i in part]
            rows = [unlabelled_row(examples[i], network.texts, head) for i in part]
            aux = torch.tensor([[float(s in d) for d in (examples[i].told, b) for s in head.slots] for i, b in zip(part, before, strict=True)])  # fmt: skip
            logits = run_head(network, head, rows, aux)
            for k, i in enumerate(part):
                own = {name: x[k] for name, x in logits.items()}
                states[i] = updated(own, rows[k], before[k], examples[i], network.texts, head.slots)
    return states


def updated(logits: Mapping[str, Tensor], row: TaskRow, before: Mapping[str, str], example: Example, texts: DialogTokenizer, slots: Sequence[str]) -> dict[str, str]:  # fmt: skip
    """State after a turn from the logits (S, ...) of its slots."""
    state = dict(before)
    length = len(row.row.ids)
    for s, slot in enumerate(slots):
        gate, gold = GATES[int(logits["gate"][s].argmax())], example.state.get(slot, "none")
        if gate in ("true", "false", "dontcare"):
            state[slot] = _as_written(gate, gold)
        elif gate == "copy_value":
            start = int(logits["start"][s, :length].argmax())
            end = int(logits["end"][s, :length].argmax())
            state[slot] = texts.tokenizer.decode(row.row.ids[start : end + 1].tolist()) if end >= start else ""  # fmt: skip
        elif gate == "inform" and slot in example.told:
            state[slot] = told_value(gold, example.told[slot])
        elif gate == "refer":
            place = int(logits["refer"][s].argmax())
            if place < len(slots) and slots[place] in before:
                state[slot] = told_value(gold, before[slots[place]])
    return state


def _as_written(gate: str, gold: str) -> str:
    """The corpus' own word for a gate: "True" and "yes" are the same answer."""
    ways = {"true": ("true", "yes"), "false": ("false", "no"), "dontcare": ("dontcare", "don't care")}[gate]  # fmt: skip
    return gold if gold.lower() in ways else gate
