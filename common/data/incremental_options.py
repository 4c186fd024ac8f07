"""Options of class-incremental training, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class IncrementalClasses:
    """Which classes come when, see `common.data.incremental.ClassIncremental`."""

    num_tasks: int = 5  # T
    order: list[int] | None = None  # classes in order of arrival; None: see order_by_seed
    order_by_seed: bool = False  # draw the order by the seed; else the numbering of the classes

    def __post_init__(self) -> None:
        if self.num_tasks < 1:
            raise ValueError("data.num_tasks must be >= 1")


@dataclass
class Rehearsal:
    """What is kept of earlier tasks, see `common.data.incremental.select_memory`."""

    setting: Literal["incremental", "offline"] = "incremental"  # offline: all classes at once
    memory_size: int = 20  # M; every class has floor(M / classes) places; 0: fine-tuning
    selection: Literal["random", "closest", "herding"] = "herding"

    def __post_init__(self) -> None:
        if self.memory_size < 0:
            raise ValueError("method.memory_size must be >= 0")

    @property
    def rehearses(self) -> bool:
        """Whether old samples are kept."""
        return self.setting == "incremental" and self.memory_size > 0
