"""Options of the evaluation of speech-to-text models; nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from common.evaluation.own_data import OwnData
from common.ranges import Count, Share
from projects.coconut.speech.options import BeamSearch


@dataclass
class SpeechEval(BeamSearch, OwnData):
    """Decoding, and what is decoded."""

    split: Literal["test", "dev"] = "test"  # dev: to tune on
    val_beam_size: Count = 5
    val_share: Share = 0.1  # of the validation utterances of the seen classes
    batch_size: Count = 64
