"""Answers of a fine-tuned model and the official metric of its task.

# B examples, L tokens, S slots
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from projects.space2.dialog_metrics import (
    LabelMaps,
    exact_match,
    joint_goal,
    slot_macro_f1,
    told_value,
)
from projects.space2.dialogs.encoding import DialogTokenizer
from projects.space2.dialogs.tasks import Example
from projects.space2.heads import GATES, TaskHead
from projects.space2.network import Space2Network
from projects.space2.rows import TaskRow, collate, word_row

METRICS = {
    "intent": "accuracy",
    "slot": "macro_f1",
    "top": "exact_match",
    "dst": "joint_goal_accuracy",
}


def predictions(
    network: Space2Network,
    head: TaskHead,
    examples: Sequence[Example],
    batch_size: int,
    maps: LabelMaps,
) -> list[tuple[Any, Any]]:
    """What is told and what is right of each example: states, or intents with tags.

    The network is in eval mode.
    """
    if head.kind == "dst":
        states = track(network, head, examples, batch_size, maps)
        return [(predicted, dict(e.state)) for predicted, e in zip(states, examples, strict=True)]
    predicted = answers(network, head, examples, batch_size)
    return [(t, (e.intent, e.tags)) for t, e in zip(predicted, examples, strict=True)]


def score(
    kind: str, pairs: Sequence[tuple[Any, Any]], maps: LabelMaps
) -> tuple[float, list[float]]:
    """The metric of a task on pairs of `predictions`, and its items.

    None where it is no mean over examples.
    """
    predicted, gold = [p[0] for p in pairs], [p[1] for p in pairs]
    if kind == "slot":
        return slot_macro_f1([tags for _, tags in predicted], [tags for _, tags in gold]), []
    if kind == "dst":
        items = joint_goal(predicted, gold, maps)
    elif kind == "top":
        items = exact_match(predicted, gold)
    else:
        items = [float(t[0] == g[0]) for t, g in zip(predicted, gold, strict=True)]
    return float(np.mean(items)), items


def check_known(examples: Sequence[Example], head: TaskHead) -> None:
    """Refuse a part of another set; single names that the training part lacked just count as wrong.

    Raises:
        UserError: no intent of the part is one of the head's.
    """
    if head.intents is not None and not any(e.intent in head.names for e in examples):
        raise UserError("no example of the scored part has an intent that was trained on")


def answers(
    network: Space2Network, head: TaskHead, examples: Sequence[Example], batch_size: int
) -> list[tuple[str, tuple[str, ...]]]:
    """Intent ("" without) and tag of every word (() without) of each example, in eval mode."""
    predicted = []
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
            predicted.append(("" if intent is None else head.names[intent], tags))
    return predicted


def unlabelled_row(example: Example, texts: DialogTokenizer, head: TaskHead) -> TaskRow:
    """Tokens of an example without a look at its answers; ``first``: places of its words."""
    if example.words:
        row, first = word_row(example.words, texts)
        return TaskRow(row, {"first": first}, np.zeros(0))
    row = texts.row(texts.utterances(example.turns), example.turns[-1].user)
    return TaskRow(row, {"first": np.zeros(0)}, np.zeros(2 * len(head.slots)))


def run_head(
    network: Space2Network, head: TaskHead, rows: Sequence[TaskRow], aux: Tensor | None = None
) -> dict[str, Tensor]:
    """Logits on the CPU."""
    batch = collate([TaskRow(r.row, {}, r.aux) for r in rows], network.texts)
    inputs = {name: x.to(network.device) for name, x in batch["inputs"].items()}
    with torch.no_grad():
        logits = head(
            network.encoder(**inputs), (batch["aux"] if aux is None else aux).to(network.device)
        )
    return {name: x.float().cpu() for name, x in logits.items()}


def track(
    network: Space2Network,
    head: TaskHead,
    examples: Sequence[Example],
    batch_size: int = 128,
    maps: LabelMaps | None = None,
) -> list[dict[str, str]]:
    """State after each turn, carried on from the model's own states turn by turn.

    The n-th turns of all dialogues are read together, since each needs the state before it.

    Source: Heck et al. 2020, section 3.5, arXiv 2005.02877; `told_value` reads informed and
    referred values with the gold one available, as the released metric does.
    """
    states: list[dict[str, str]] = [{} for _ in examples]
    order: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        order.setdefault(example.dialog, []).append(i)
    for n in range(max(map(len, order.values()))):
        places = [place[n] for place in order.values() if n < len(place)]
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            before = [states[order[examples[i].dialog][n - 1]] if n else {} for i in part]
            rows = [unlabelled_row(examples[i], network.texts, head) for i in part]
            aux = torch.tensor(
                [
                    [float(s in d) for d in (examples[i].told, b) for s in head.slots]
                    for i, b in zip(part, before, strict=True)
                ]
            )
            logits = run_head(network, head, rows, aux)
            for k, i in enumerate(part):
                place = {name: x[k] for name, x in logits.items()}
                states[i] = updated(
                    place, rows[k], before[k], examples[i], network.texts, head.slots, maps
                )
    return states


def updated(
    logits: Mapping[str, Tensor],
    row: TaskRow,
    before: Mapping[str, str],
    example: Example,
    texts: DialogTokenizer,
    slots: Sequence[str],
    maps: LabelMaps | None = None,
) -> dict[str, str]:
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
            state[slot] = (
                texts.tokenizer.decode(row.row.ids[start : end + 1].tolist())
                if end >= start
                else ""
            )
        elif gate == "inform" and slot in example.told:
            state[slot] = told_value(gold, example.told[slot], maps)
        elif gate == "refer":
            place = int(logits["refer"][s].argmax())
            if place < len(slots) and slots[place] in before:
                state[slot] = told_value(gold, before[slots[place]], maps)
    return state


def _as_written(gate: str, gold: str) -> str:
    """The corpus' own word for a gate: "True" and "yes" are the same answer."""
    ways = {
        "true": ("true", "yes"),
        "false": ("false", "no"),
        "dontcare": ("dontcare", "don't care"),
    }[gate]
    return gold if gold.lower() in ways else gate
