"""Waveforms to one embedding: a speech tower, the mean over time, a linear map."""

from typing import Any, Literal

from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import linear_projection
from common.encoders.pooling import mean_pool
from common.encoders.speech.speech_towers import (
    ConvTransformerEncoder,
    SpecAugment,
    Wav2Vec2Encoder,
    frame_mask,
    wav2vec2_encoder,
)
from projects.cwcl.speech.whisper import WhisperTower, whisper_tower

SpeechKind = Literal["whisper", "wav2vec2", "conv"]
Tower = ConvTransformerEncoder | Wav2Vec2Encoder | WhisperTower


class SpeechEmbedder(nn.Module):
    """Mean of a tower's real states, projected.

    Args:
        tower: waveforms (B, T) and lengths (B,) -> states (B, S, dim) and lengths.
        embed_dim: D.
    """

    def __init__(self, tower: Tower, embed_dim: int) -> None:
        super().__init__()
        self.tower, self.embed_dim = tower, embed_dim
        self.proj = linear_projection(tower.dim, embed_dim)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Zero-padded waveforms (B, T) and lengths (B,) -> embeddings (B, D), not normalised."""
        states, real = self.tower(waveforms, lengths)
        embeddings: Tensor = self.proj(mean_pool(states, frame_mask(real, states.shape[1])))
        return embeddings


def speech_embedder(
    encoder: SpeechKind,
    embed_dim: int,
    sample_rate: int,
    pretrained: str = "random",
    sizes: dict[str, Any] | None = None,
) -> SpeechEmbedder:
    """Build tower and projection from plain values, as they are stored alongside exported weights.

    Args:
        encoder: "whisper", "wav2vec2" (both at 16 kHz) or "conv".
        embed_dim: D.
        sample_rate: of the waveforms, in Hz.
        pretrained: of whisper and wav2vec2.
        sizes: of a random tower: fields of the library's config, or arguments of
            `ConvTransformerEncoder` and ``augment`` (SpecAugment, default true).

    Raises:
        UserError: another sample rate, weights that cannot be had, or unknown sizes.
    """
    tower: Tower
    if encoder != "conv" and sample_rate != 16000:
        raise UserError(f"{encoder} reads 16 kHz, not {sample_rate} Hz: use encoder=conv")
    if encoder == "whisper":
        tower = whisper_tower(pretrained, sizes)
    elif encoder == "wav2vec2":
        tower = wav2vec2_encoder(pretrained, sizes)
    else:
        options = dict(sizes or {})
        augment = SpecAugment() if options.pop("augment", True) else None
        try:
            tower = ConvTransformerEncoder(sample_rate, augment=augment, **options)
        except TypeError as error:
            raise UserError(f"speech tower: {error}") from error
    return SpeechEmbedder(tower, embed_dim)
