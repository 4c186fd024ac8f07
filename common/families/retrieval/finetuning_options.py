"""Config section of the fine-tuning with questions and passages; nothing here imports torch."""

from dataclasses import dataclass
from typing import Annotated

from common.ranges import Count, Positive, Probability, Whole, at_least


@dataclass
class FinetuneConfig:
    """A second stage: questions with passages, in-batch negatives and explicit ones."""

    steps: Whole = 0  # 0: no fine-tuning
    file: str | None = None  # .json or .jsonl of DPR's layout; None: eval.held_out_queries
    batch_size: Count = 64  # per device
    lr: Positive = 1.0e-5
    warmup_steps: Whole = 0
    temperature: Positive = 0.05
    num_negatives: Whole = 1  # n of a question
    negative_hard_ratio: Probability = 0.0  # probability that one of them is a hard one
    negative_hard_min_idx: Whole = 0  # first hard negatives that are passed over
    max_length: Annotated[int, at_least(4)] = 256  # tokens of a question or passage
    normalize_text: bool = True  # plain punctuation and spaces, see common.data.text.normalize
