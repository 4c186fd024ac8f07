"""Options of the evaluation of speech-to-text models; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.encoders.speech.options import BeamSearch


@dataclass
class SpeechEval(BeamSearch):
    """Decoding, and what is decoded."""

    split: Literal["test", "dev"] = "test"  # dev: to tune on
    val_beam_size: int = 5
    val_share: float = 0.1  # of the validation utterances of the seen classes
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.val_beam_size, self.batch_size) < 1:
            raise ValueError("eval.val_beam_size and eval.batch_size must be >= 1")
        if not 0 < self.val_share <= 1:
            raise ValueError("eval.val_share must lie in (0, 1]")
