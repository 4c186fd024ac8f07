"""Options of spoken data, for config schemas; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.config import DataConfig
from common.ranges import Count


@dataclass
class SpokenData(DataConfig):
    """Utterances with intent and transcript."""

    # digits: the bundled spoken digits; fsc, slurp: official layouts; synthetic: tone words
    source: Literal["synthetic", "digits", "fsc", "slurp"] = "digits"
    synthetic_recordings: bool = True  # SLURP: train on the synthetic recordings too
    # of fsc and slurp
    max_samples: Count | None = None  # longer recordings (at 16 kHz) are dropped
    max_characters: Count | None = None  # longer transcripts are dropped
    train_per_class: Count = 16  # synthetic source
    # digits: words of a command, of one speaker; class and intent are the first's, the transcript
    # holds all
    command_words: Count = 1

    def __post_init__(self) -> None:
        if self.command_words > 1 and self.source != "digits":
            raise ValueError("data.command_words joins spoken digits: data.source=digits")
        # of a manifest, where a subclass reads one in place of `source`, lengths are limited
        whole = self.source in ("digits", "synthetic") and not getattr(self, "manifest", None)
        if whole and (self.max_samples is not None or self.max_characters is not None):
            raise ValueError(
                f"data.source={self.source} drops nothing: leave out data.max_samples and "
                "data.max_characters"
            )
