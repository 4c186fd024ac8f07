"""An exported recogniser that decodes as its run did."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common import config
from common.data.speech.transcripts import SpokenTarget
from common.models import about
from projects.coconut.config import Config
from projects.coconut.speech.options import BeamSearch
from projects.coconut.speech.recognizer import Recognizer


class RunRecognizer(Recognizer):
    """A recogniser with a search of its own.

    Args:
        recognizer: network and tokenizer.
        search: beams and length where a call names none.
    """

    def __init__(self, recognizer: Recognizer, search: BeamSearch) -> None:
        super().__init__(recognizer.network, recognizer.tokenizer)
        self.search = search

    def __call__(
        self, waveforms: Sequence[Tensor], search: BeamSearch | None = None, batch_size: int = 256
    ) -> list[SpokenTarget]:
        """See `Recognizer`."""
        return super().__call__(waveforms, search or self.search, batch_size)


def load_exported(folder: str | Path) -> RunRecognizer:
    """The model of a folder that ``make export`` wrote, with the search of its run's settings.

    Raises:
        UserError: it is not such a folder.
    """
    run = about(Path(folder))
    settings = config.load(Config, "coconut", run.config, run.overrides).eval
    search = BeamSearch(settings.beam_size, settings.length_power, settings.max_length)
    return RunRecognizer(Recognizer.load(folder), search)
