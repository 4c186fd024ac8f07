"""A trial: a run with settings that the sampler chose, in a process of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.engine.comparison.processes import COMMAND, RunProcess, start_process


@dataclass
class TrialRun:
    """The run of a trial.

    Attributes:
        project: slug.
        base: config.
        words: overrides.
        path: its folder, whose name is its run id.
    """

    project: str
    base: str
    words: Sequence[str]
    path: Path
    process: RunProcess | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").exists()

    def command(self) -> list[str]:
        """Words of its process; what was interrupted goes on."""
        words = [*COMMAND, "train", self.project, self.base, *self.words]
        resumed = [f"resume={self.path.name}"] if (self.path / "meta.json").exists() else []
        return [*words, f"run_id={self.path.name}", *resumed]

    def start(self, threads: int) -> bool:
        """Start its process; False while another process works on it."""
        self.process = start_process(self.path, self.command(), threads)
        return self.process is not None

    def ended(self) -> bool:
        """Whether its process has ended, well or not."""
        return self.process is None or self.process.ended() is not None

    def stop(self) -> None:
        """End it and the processes that it started."""
        if self.process is not None:
            self.process.ask_to_end()
            self.process.end()
