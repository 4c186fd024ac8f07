"""The answer stage: a language model learns to say a word for a text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.engine.module import ContrastiveModule
from projects.promptreps.config import Config
from projects.promptreps.encoder import PromptRepsEncoder


class AnswerModule(ContrastiveModule):
    """A language model learns to answer the prompt with a word and to close the quotation.

    The first token of the answer is learnt for all words of a text at once, what follows for one.

    Stands in for instruction tuning where none was done, such as in this repository's small model;
    no part of the paper.

    Args:
        cfg: the experiment's config.
        encoder: what is trained, all of it.
    """

    in_batch_negatives = False

    def __init__(self, cfg: Config, encoder: PromptRepsEncoder) -> None:
        options = cfg.instruct
        super().__init__(
            replace(cfg.optim, lr=options.lr, warmup_steps=options.warmup_steps, warmup_epochs=0.0)
        )
        self.encoder = encoder

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the first token and of what follows; share of right first tokens."""
        lm, labels = self.encoder.lm, batch["labels"]
        states = lm.all_states(batch["input_ids"], batch["attention_mask"])
        row, place = (labels >= 0).nonzero(as_tuple=True)
        logits, targets = lm.logits(states[row, place]), labels[row, place]
        begins = row.diff(prepend=row.new_full((1,), -1)).bool()
        word, first = logits[begins], batch["first"]
        right = (word.argmax(-1)[:, None] == first).any(1).float().mean()
        text, column = (first >= 0).nonzero(as_tuple=True)
        opening = answer_loss(word[text], first[text, column], text, len(labels))
        rest = answer_loss(logits[~begins], targets[~begins], row[~begins], len(labels))
        return {"loss": opening + rest, "opening_loss": opening, "accuracy": right}


def answer_loss(logits: Tensor, labels: Tensor, owner: Tensor, count: int) -> Tensor:
    """Cross-entropy of answers: the mean over the tokens of each, then over texts.

    Args:
        logits: (T, V) of the positions that are learnt, of all texts.
        labels: (T,) int64, their next tokens.
        owner: (T,) int64, which text a position belongs to.
        count: B texts.
    """
    each = F.cross_entropy(logits, labels, reduction="none")
    sums = torch.zeros(count, dtype=each.dtype, device=each.device).index_add(0, owner, each)
    return (sums / torch.bincount(owner, minlength=count).clamp(min=1)).mean()
