"""Options of the evaluation of speech-to-text models; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, Share
from projects.coconut.speech.options import BeamSearch


@dataclass
class SpeechEval(BeamSearch, OwnData):
    """Decoding, and what is decoded."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.RECORDINGS: Judge()}

    split: Literal["test", "dev"] = "test"  # dev: to tune on
    val_beam_size: Count = 5
    val_share: Share = 0.1  # of the validation utterances of the seen classes
    batch_size: Count = 64
