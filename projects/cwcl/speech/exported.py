"""Speech and text in one space as a folder: ``model.safetensors`` of the speech side, ``text/``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.speech.waveforms import load_waveform, pad_waveforms
from common.encoders.modes import evaluation_mode
from common.encoders.text.sentence import SentenceEncoder
from common.export.files import write_json
from common.export.safetensors import load_safetensors, save_safetensors
from common.export.sentence_transformers import (
    load_sentence_transformers,
    save_sentence_transformers,
)
from projects.cwcl.speech.embedder import SpeechEmbedder, speech_embedder

TEXT, ABOUT = "text", "space.json"


def save_spoken_text(
    speech: SpeechEmbedder,
    text: SentenceEncoder,
    folder: str | Path,
    options: Mapping[str, Any],
    *,
    mean: Tensor,
    log_scale: Tensor,
) -> None:
    """Write what `load_spoken_text` reads; ``text/`` is a folder of sentence-transformers.

    Args:
        speech: weights of the speech side.
        text: the text encoder, in the state it is used in.
        folder: created if needed.
        options: arguments of `speech_embedder`, with the architecture in ``sizes``.
        mean: (D,) subtracted from text embeddings.
        log_scale: logarithm of the trained multiplier.
    """
    folder = Path(folder)
    save_safetensors(speech, folder, options)
    save_sentence_transformers(text, folder / TEXT)
    write_json(folder / ABOUT, {"mean": mean.tolist(), "log_scale": float(log_scale)})


class SpokenTextModel:
    """An exported model: embeds recordings and texts, finds keywords and intents.

    Args:
        speech: waveforms -> (B, D).
        text: texts -> (B, D).
        sample_rate: of the recordings in Hz.
        mean: (D,) subtracted from text embeddings.
        log_scale: logarithm of the multiplier of cosines.
    """

    def __init__(
        self,
        speech: SpeechEmbedder,
        text: SentenceEncoder,
        sample_rate: int,
        mean: Tensor,
        log_scale: float,
    ) -> None:
        self.speech, self.text = speech.eval(), text.eval()
        self.sample_rate, self.mean, self.log_scale = sample_rate, mean, log_scale

    def encode_speech(
        self, recordings: Sequence[str | Path | Tensor], batch_size: int = 256
    ) -> Tensor:
        """Unit embeddings (N, D) of WAV or FLAC files, or of waveforms (T,) at the model's rate.

        They are read and encoded `batch_size` at a time.

        Raises:
            UserError: a file that cannot be read.
        """
        parts = [torch.empty(0, len(self.mean))]
        with evaluation_mode(self.speech):
            for i in range(0, len(recordings), batch_size):
                waveforms = [self._waveform(one) for one in recordings[i : i + batch_size]]
                embedded = self.speech(*pad_waveforms(waveforms))
                parts.append(F.normalize(embedded.float(), dim=1))
        return torch.cat(parts)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of texts."""
        return F.normalize(self.text.encode(list(texts), normalize=False) - self.mean, dim=1)

    def classify(self, recordings: Sequence[str | Path | Tensor], texts: Sequence[str]) -> Tensor:
        """Probabilities (N, T) that a text belongs to a recording."""
        cosines = self.encode_speech(recordings) @ self.encode_texts(texts).T
        return (torch.tensor(self.log_scale).exp() * cosines).softmax(1)

    def _waveform(self, recording: str | Path | Tensor) -> Tensor:
        if isinstance(recording, Tensor):
            return recording
        try:
            return load_waveform(recording, self.sample_rate)
        except OSError as error:
            raise UserError(str(error)) from error


def load_spoken_text(folder: str | Path) -> SpokenTextModel:
    """Read an exported folder.

    Raises:
        UserError: not such a folder, or damaged files.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        mean, log_scale = torch.tensor(about["mean"]), float(about["log_scale"])
        rate = int(json.loads((folder / "config.json").read_text("utf-8"))["sample_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported model: {error}") from error
    speech = load_safetensors(folder, speech_embedder)
    return SpokenTextModel(speech, load_sentence_transformers(folder / TEXT), rate, mean, log_scale)
