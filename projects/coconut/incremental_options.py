"""Options of class-incremental training, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.ranges import Count, Whole


@dataclass
class IncrementalClasses:
    """Which classes come when, see `projects.coconut.incremental.ClassIncremental`."""

    num_tasks: Count = 5  # T
    order: list[Whole] | None = None  # classes in order of arrival; None: see order_by_seed
    order_by_seed: bool = False  # draw the order by the seed; else the numbering of the classes


@dataclass
class Rehearsal:
    """What is kept of earlier tasks, see `projects.coconut.incremental.select_memory`."""

    setting: Literal["incremental", "offline"] = "incremental"  # offline: all classes at once
    memory_size: Whole = 20  # M; every class has floor(M / classes) places; 0: fine-tuning
    selection: Literal["random", "closest", "herding"] = "herding"

    @property
    def rehearses(self) -> bool:
        """Whether old samples are kept."""
        return self.setting == "incremental" and self.memory_size > 0
