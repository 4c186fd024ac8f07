"""An exported speech-to-text model: waveforms in, intents and transcripts out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.config import UserError
from common.data.speech.transcripts import SpokenTarget
from common.data.speech.waveforms import pad_waveforms
from common.encoders.modes import evaluation_mode
from common.export.safetensors import load_safetensors, save_safetensors
from common.files import write_text
from projects.coconut.speech.options import BeamSearch
from projects.coconut.speech.speech_to_text import (
    SpeechToText,
    build_speech_to_text,
    exported_options,
)
from projects.coconut.speech.tokenizer import TranscriptTokenizer

TOKENIZER = "tokenizer.json"


def save_recognizer(
    network: SpeechToText, tokenizer: TranscriptTokenizer, options: Mapping[str, Any], folder: Path
) -> None:
    """Write what `Recognizer.load` reads.

    Args:
        network: weights.
        tokenizer: of its vocabulary.
        options: arguments of `build_speech_to_text`.
        folder: is made.
    """
    save_safetensors(network, folder, exported_options(dict(options), network))
    write_text(folder / TOKENIZER, tokenizer.to_json())


class Recognizer:
    """An exported model with its tokenizer: waveforms in, intents and transcripts out.

    Args:
        network: in eval mode.
        tokenizer: of its vocabulary.
    """

    def __init__(self, network: SpeechToText, tokenizer: TranscriptTokenizer) -> None:
        self.network, self.tokenizer = network, tokenizer

    @classmethod
    def load(cls, folder: str | Path) -> "Recognizer":
        """From a folder that `make export` wrote.

        Raises:
            UserError: it is not such a folder.
        """
        path = Path(folder) / TOKENIZER
        if not path.is_file():
            raise UserError(f"{folder} has no {TOKENIZER}; is it an exported model?")
        tokenizer = TranscriptTokenizer(path.read_text(encoding="utf-8"))
        return cls(load_safetensors(folder, build_speech_to_text), tokenizer)

    def __call__(
        self,
        waveforms: Sequence[Tensor],
        search: BeamSearch | None = None,
        batch_size: int = 256,
    ) -> list[SpokenTarget]:
        """Intent, slots and transcript of every waveform.

        Args:
            waveforms: (T_i,) float32 each, at the sample rate of the model's config.
            search: beams and length; None: five beams, forty tokens.
            batch_size: waveforms that are read at a time.
        """
        device = next(self.network.parameters()).device
        targets: list[SpokenTarget] = []
        with evaluation_mode(self.network):
            for i in range(0, len(waveforms), batch_size):
                padded, lengths = pad_waveforms(waveforms[i : i + batch_size])
                tokens = self.network.transcribe(
                    padded.to(device), lengths.to(device), search or BeamSearch()
                )
                targets += [self.tokenizer.decode_target(row) for row in tokens.tolist()]
        return targets
