"""Whisper's encoder of transformers, fed with waveforms.

# B batch, T samples, S states, D dim
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.speech.speech_towers import speech_model

SAMPLE_RATE, WINDOW, HOP = 16000, 400, 160


class WhisperLogMel(nn.Module):
    """Whisper's features: log10 mel power, at most 8 below the maximum of its window, scaled.

    Source: Radford et al. 2023, section 2.2, arXiv 2212.04356, and the library's feature extractor.

    Args:
        num_mels: mel bands.
        num_frames: of 10 ms; shorter input is padded with silence, longer input is cut.
    """

    filters: Tensor

    def __init__(self, num_mels: int = 80, num_frames: int = 3000) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.num_frames = num_frames
        bank = mel_filter_bank(
            WINDOW // 2 + 1, num_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", torch.as_tensor(bank, dtype=torch.float32), False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Zero-padded waveforms (B, T) at 16 kHz -> (B, num_mels, num_frames)."""
        samples = self.num_frames * HOP
        x = F.pad(waveforms[:, :samples], (0, max(0, samples - waveforms.shape[1])))
        window = torch.hann_window(WINDOW, device=x.device)
        spectrum = torch.stft(x, WINDOW, HOP, window=window, return_complex=True)[..., :-1]
        power = self.filters.T @ spectrum.abs().square()
        log = power.clamp(min=1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8)
        return (log + 4) / 4


class WhisperTower(nn.Module):
    """Whisper's encoder; states behind the end of the recording are not counted as real.

    Args:
        model: the library's `WhisperEncoder`; its positions fix the length of the window.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.dim = int(model.config.d_model)
        self.front = WhisperLogMel(model.config.num_mel_bins, 2 * model.config.max_source_positions)
        model.embed_positions.requires_grad_(False)  # sinusoids, as in Whisper's own training

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-padded waveforms (B, T), lengths (B,) -> states (B, S, D), real states (B,)."""
        states: Tensor = self.model(self.front(waveforms)).last_hidden_state
        real = torch.div(lengths - 1, 2 * HOP, rounding_mode="floor") + 1
        return states, real.clamp(1, states.shape[1])


def whisper_tower(pretrained: str, config: dict[str, Any] | None = None) -> WhisperTower:
    """Build the encoder.

    Args:
        pretrained: Hugging Face id or local folder of a Whisper model, or ``random``.
        config: with "random": fields of the library's `WhisperConfig`.

    Raises:
        UserError: see `speech_model`.
    """
    from transformers import WhisperModel

    return WhisperTower(speech_model(WhisperModel, "whisper", pretrained, config).encoder)
