"""Heads of the four tasks on the encoder's states: intents, slots, parses, dialogue states.

# B examples, L tokens, D hidden size, S slots, G gates
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.text.masking import IGNORED
from common.losses.functional.soft import symmetric_kl

GATES = ("none", "dontcare", "copy_value", "true", "false", "refer", "inform")
"""What happens to a slot: nothing, its own value, a span, another slot's, the system's."""


class TaskHead(nn.Module):
    """Linear maps of the sentence vector and of the token states.

    Source: Mehri et al. 2020, "DialoGLUE", arXiv 2009.13570 (intents, slots, parses); Heck et al.
    2020, "TripPy", arXiv 2005.02877 (states).

    Args:
        kind: intent, slot, top or dst.
        num_features: D.
        names: intents; () where the task has none.
        tags: IOB tags.
        slots: of dialogue states.
        dropout: on vectors and states.
    """

    def __init__(
        self,
        kind: str,
        num_features: int,
        names: Sequence[str] = (),
        tags: Sequence[str] = (),
        slots: Sequence[str] = (),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.kind, self.names, self.tag_names, self.slots = (
            kind,
            tuple(names),
            tuple(tags),
            tuple(slots),
        )
        self.dropout = nn.Dropout(dropout)
        self.intents = nn.Linear(num_features, len(names)) if kind in ("intent", "top") else None
        self.tags = nn.Linear(num_features, len(tags)) if kind in ("slot", "top") else None
        self.state = StateHead(num_features, len(slots)) if kind == "dst" else None

    def settings(self) -> dict[str, Any]:
        """What builds it again."""
        return {
            "kind": self.kind,
            "names": list(self.names),
            "tags": list(self.tag_names),
            "slots": list(self.slots),
            "dropout": self.dropout.p,
        }

    def forward(self, states: Tensor, aux: Tensor | None = None) -> dict[str, Tensor]:
        """Logits by name of states (B, 1 + L, D) whose place 0 is the sentence vector.

        `aux` is for states.
        """
        states = self.dropout(states)
        logits: dict[str, Tensor] = {}
        if self.intents is not None:
            logits["intent"] = self.intents(states[:, 0])
        if self.tags is not None:
            logits["tags"] = self.tags(states[:, 1:])
        if self.state is not None:
            assert aux is not None
            logits |= self.state(states, aux)
        return logits


class StateHead(nn.Module):
    """Per slot: a gate, start and end of a span, another slot to refer to.

    What the system told and which slots are filled enters the gates (TripPy's auxiliary features).

    Source: Heck et al. 2020, section 3, arXiv 2005.02877.

    Args:
        num_features: D.
        num_slots: S.
    """

    def __init__(self, num_features: int, num_slots: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        width = num_features + 2 * num_slots
        self.gate = nn.Linear(width, num_slots * len(GATES))
        self.refer = nn.Linear(width, num_slots * (num_slots + 1))
        self.span = nn.Linear(num_features, num_slots * 2)
        self.aux = nn.Linear(2 * num_slots, 2 * num_slots)

    def forward(self, states: Tensor, aux: Tensor) -> dict[str, Tensor]:
        """``gate`` (B, S, G), ``refer`` (B, S, S + 1), ``start`` and ``end`` (B, S, L).

        Args:
            states: (B, 1 + L, D).
            aux: (B, 2 S) 0/1: slots that the system told, slots that are filled.
        """
        vector = torch.cat([states[:, 0], self.aux(aux.to(states))], 1)
        span = self.span(states[:, 1:]).view(*states[:, 1:].shape[:2], self.num_slots, 2)
        start, end = span.permute(3, 0, 2, 1)
        return {
            "gate": self.gate(vector).view(-1, self.num_slots, len(GATES)),
            "refer": self.refer(vector).view(-1, self.num_slots, self.num_slots + 1),
            "start": start,
            "end": end,
        }


def r_drop(logits: Tensor, labels: Tensor, kl_weight: float = 5.0) -> dict[str, Tensor]:
    """CE of both copies, mean over 2B rows, + kl_weight * symmetric KL between the copies.

    Or CE of one copy.

    Source: Liang et al. 2021, "R-Drop", arXiv 2106.14448; He et al. 2022, released
    `IntentUnifiedTransformer`.

    Args:
        logits: (2B, C); rows [B, 2B) are the second copies. (B, C) with weight 0.
        labels: (B,) int64.
        kl_weight: >= 0.

    Returns:
        "loss" and its terms.
    """
    ce = F.cross_entropy(logits.float(), labels.repeat(len(logits) // len(labels)))
    if not kl_weight:
        return {"loss": ce, "ce": ce}
    kl = symmetric_kl(*logits.chunk(2))
    return {"loss": ce + kl_weight * kl, "ce": ce, "kl": kl}


def tag_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """CE over the first pieces of words: labels are -100 elsewhere.

    Args:
        logits: (B, L, C).
        labels: (B, L) int64.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def state_loss(logits: dict[str, Tensor], labels: dict[str, Tensor], ratio: float = 0.8) -> Tensor:
    """Sum over slots, mean over examples, of ratio * gate + (1 - ratio) / 2 * (span + reference).

    Spans count where the gate is copy_value, references where it is refer.

    Source: Heck et al. 2020, released `BertForDST`, arXiv 2005.02877.

    Args:
        logits: see `StateHead.forward`.
        labels: ``gate``, ``start``, ``end``, ``refer``, (B, S) int64; -100 where they do not count.
        ratio: in [0, 1), `class_loss_ratio`.
    """

    def ce(name: str) -> Tensor:
        scores = logits[name].float()
        losses = F.cross_entropy(
            scores.flatten(0, 1), labels[name].flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(len(scores), -1)

    span = (ce("start") + ce("end")) / 2
    total = ratio * ce("gate") + (1 - ratio) / 2 * (span + ce("refer"))
    return total.sum(1).mean()
