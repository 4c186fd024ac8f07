"""Corrupt samples are skipped, counted and logged; too many of them stop the run."""

import logging

from common.config import UserError

log = logging.getLogger(__name__)


class CorruptCounter:
    """Counts samples that could not be read.

    The fraction is judged from `min_seen` samples on, so that one early defect does not stop a run.

    Args:
        what: name of the source, for messages.
        max_fraction: largest tolerated fraction of corrupt samples, in [0, 1].
        min_seen: number of samples before the fraction is judged.
    """

    def __init__(self, what: str, *, max_fraction: float = 0.05, min_seen: int = 100) -> None:
        if not 0 <= max_fraction <= 1 or min_seen < 1:
            raise ValueError("max_fraction must be in [0, 1] and min_seen >= 1")
        self.what, self.max_fraction, self.min_seen = what, max_fraction, min_seen
        self.seen = self.skipped = 0
        self._last = ""

    def good(self) -> None:
        """Count one sample that was read."""
        self.seen += 1
        self._judge(self.min_seen)

    def bad(self, where: str, error: BaseException | str) -> None:
        """Count and log one corrupt sample.

        Args:
            where: file, key or index of the sample.
            error: what went wrong.

        Raises:
            UserError: more than `max_fraction` of the samples seen are corrupt.
        """
        self.seen += 1
        self.skipped += 1
        self._last = f"{where}: {error}"
        log.warning(
            "%s: skipped corrupt sample %s (%d so far)", self.what, self._last, self.skipped
        )
        self._judge(self.min_seen)

    def finish(self) -> None:
        """Judge the fraction at the end of a pass, however few samples were seen."""
        self._judge(1)

    def _judge(self, min_seen: int) -> None:
        if self.seen >= min_seen and self.skipped > self.max_fraction * self.seen:
            raise UserError(
                f"{self.what}: {self.skipped} of {self.seen} samples are corrupt, more than the "
                f"tolerated {self.max_fraction:.1%}; last one {self._last}. Check the files or get "
                "them again"
            )
