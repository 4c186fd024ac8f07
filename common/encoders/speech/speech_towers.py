"""Speech encoders: log-mel front end with SpecAugment, conv-Transformer, wav2vec 2.0.

Both encoders take zero-padded waveforms with their lengths and return states with theirs; what is
padding never changes the states of real frames (but see `Wav2Vec2Encoder`).

# B batch, T samples, S frames or states, M mel bands, D dim
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.pretrained import load_filled, resolve_pretrained
from common.encoders.sinusoidal import sinusoidal_positions

_FLOOR = 1e-6  # of the mel power before the logarithm


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(B,) lengths -> (B, S) bool, True at real frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


class LogMel(nn.Module):
    """Log-mel spectrogram, every band of an utterance with mean 0 and deviation 1.

    Args:
        sample_rate: in Hz.
        num_mels: M.
        window_ms: length of a (Hann) window in milliseconds.
        hop_ms: distance between windows in milliseconds.
    """

    def __init__(
        self, sample_rate: int, num_mels: int = 40, window_ms: float = 25.0, hop_ms: float = 10.0
    ) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        window = round(sample_rate * window_ms / 1000)
        self.hop = round(sample_rate * hop_ms / 1000)
        self.num_fft = 2 ** (window - 1).bit_length()
        with torch.device("cpu"):  # the filters need values; a dry run has none
            spectrogram = MelSpectrogram(
                sample_rate, self.num_fft, window, self.hop, n_mels=num_mels, center=False
            )
        self.spectrogram = spectrogram.to(torch.get_default_device())

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-padded (B, T) and (B,) -> (B, S, M), zeros at padding, and (B,) frames."""
        if waveforms.shape[1] < self.num_fft:
            waveforms = F.pad(waveforms, (0, self.num_fft - waveforms.shape[1]))
        power = self.spectrogram(waveforms).transpose(1, 2)
        frames = (torch.div(lengths - self.num_fft, self.hop, rounding_mode="floor") + 1).clamp(1)
        mask = frame_mask(frames, power.shape[1]).unsqueeze(-1)
        x = (power + _FLOOR).log()
        count = frames.view(-1, 1, 1).to(x.dtype)
        mean = (x * mask).sum(1, keepdim=True) / count
        centred = (x - mean) * mask
        deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
        return centred / deviation.clamp(min=1e-3), frames


class SpecAugment(nn.Module):
    """Random bands of frequencies and of frames set to 0 in training, other ones for each row.

    Time masks are placed anywhere in the padded batch, so in a recording much shorter than the
    longest one alongside it many of them fall on its padding and hide less of it.

    Source: Park et al. 2019, arXiv 1904.08779 (no time warping).

    Args:
        num_freq_masks: masks over frequency.
        freq_width: largest width in bands.
        num_time_masks: masks over time.
        time_width: largest width in frames.
        time_share: largest share of the padded batch's frames that one time mask covers.
    """

    def __init__(
        self,
        num_freq_masks: int = 2,
        freq_width: int = 8,
        num_time_masks: int = 2,
        time_width: int = 20,
        time_share: float = 0.2,
    ) -> None:
        super().__init__()
        self.num_freq_masks, self.freq_width = num_freq_masks, freq_width
        self.num_time_masks, self.time_width = num_time_masks, time_width
        self.time_share = time_share

    def forward(self, frames: Tensor) -> Tensor:
        """(B, S, M) -> the same with masks; unchanged in eval mode."""
        if not self.training:
            return frames
        from torchaudio.functional import mask_along_axis_iid

        x = frames.unsqueeze(1)  # (B, 1, S, M)
        for _ in range(self.num_freq_masks):
            x = mask_along_axis_iid(x, self.freq_width, 0.0, axis=3)
        for _ in range(self.num_time_masks):
            x = mask_along_axis_iid(x, self.time_width, 0.0, axis=2, p=self.time_share)
        return x.squeeze(1)


class ConvTransformerEncoder(nn.Module):
    """Log-mel frames, strided convolutions over time, pre-norm Transformer layers.

    Source: Radford et al. 2023 (Whisper's encoder), arXiv 2212.04356; here every convolution
    halves the frame rate.

    Args:
        sample_rate: in Hz.
        num_mels: mel bands.
        dim: D.
        num_convs: convolutions of width 3 and stride 2, each followed by GELU.
        num_layers: Transformer layers.
        num_heads: attention heads.
        dropout: in the layers and on their input.
        augment: SpecAugment, or None.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        num_mels: int = 40,
        dim: int = 96,
        num_convs: int = 2,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        augment: SpecAugment | None = None,
    ) -> None:
        super().__init__()
        self.front = LogMel(sample_rate, num_mels)
        self.augment = augment
        widths = [num_mels, *[dim] * num_convs]
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        layer = nn.TransformerEncoderLayer(
            dim, num_heads, 4 * dim, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(dropout)
        self.dim = dim

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-padded waveforms (B, T) and lengths (B,) -> states (B, S, D) and lengths (B,)."""
        x, lengths = self.front(waveforms, lengths)
        if self.augment is not None:
            x = self.augment(x)
        for conv in self.convs:
            x = F.gelu(conv(x.transpose(1, 2))).transpose(1, 2)
            lengths = (lengths + 1) // 2
            x = x * frame_mask(lengths, x.shape[1]).unsqueeze(-1)
        x = self.dropout(x + sinusoidal_positions(x.shape[1], self.dim, x))
        padding = ~frame_mask(lengths, x.shape[1])
        return self.layers(x, src_key_padding_mask=padding), lengths


class Wav2Vec2Encoder(nn.Module):
    """wav2vec 2.0 of transformers; the convolutional feature extractor is frozen.

    Waveforms are normalised to mean 0 and deviation 1 over their real samples. Models whose feature
    extractor has group norm were trained without attention mask and get none (as the library
    advises); their states then depend a little on the padding.

    Source: Baevski et al. 2020, arXiv 2006.11477.

    Args:
        model: a `Wav2Vec2Model`; its own masking and layer drop are switched off.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.config.apply_spec_augment = False
        model.config.layerdrop = 0.0
        self.model = model
        self.dim = int(model.config.hidden_size)
        self.masked = model.config.feat_extract_norm != "group"
        model.feature_extractor.requires_grad_(False)
        if getattr(model, "masked_spec_embed", None) is not None:
            model.masked_spec_embed.requires_grad_(False)

    def train(self, mode: bool = True) -> "Wav2Vec2Encoder":
        """Set the mode; the frozen feature extractor stays in eval mode."""
        super().train(mode)
        self.model.feature_extractor.eval()
        return self

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-padded waveforms (B, T) at 16 kHz and lengths (B,) -> states (B, S, D), lengths."""
        mask = frame_mask(lengths, waveforms.shape[1])
        count = lengths[:, None].to(waveforms.dtype)
        mean = (waveforms * mask).sum(1, keepdim=True) / count
        centred = (waveforms - mean) * mask
        variance = centred.square().sum(1, keepdim=True) / count
        normal = centred / (variance + 1e-7).sqrt()
        states = self.model(normal, attention_mask=mask.long() if self.masked else None)
        out = self.model._get_feat_extract_output_lengths(lengths).clamp(1)
        return states.last_hidden_state, out


def wav2vec2_encoder(pretrained: str, config: dict[str, Any] | None = None) -> Wav2Vec2Encoder:
    """Build a wav2vec 2.0 encoder.

    Args:
        pretrained: Hugging Face id, local folder, or ``random``.
        config: with "random": fields of the library's `Wav2Vec2Config`.

    Raises:
        UserError: see `speech_model`.
    """
    from transformers import Wav2Vec2Model

    return Wav2Vec2Encoder(speech_model(Wav2Vec2Model, "wav2vec2", pretrained, config))


def speech_model(
    kind: Any, model_type: str, pretrained: str, config: dict[str, Any] | None = None
) -> Any:
    """A speech model of transformers, with stored or random weights.

    Args:
        kind: class of the model.
        model_type: its name in a configuration.
        pretrained: Hugging Face id, local folder, or ``random``.
        config: with "random": fields of its configuration.

    Raises:
        UserError: weights that cannot be had or of another kind, unknown or wrong fields, or fields
            alongside weights, which have their own.
    """
    from common.encoders.text.tower import architecture

    ref = resolve_pretrained(pretrained, require=False)
    if ref.kind == "random":
        what = f"a speech tower ({model_type})"
        settings = architecture({"model_type": model_type, **(config or {})}, what)
        if settings.model_type != model_type:
            raise UserError(f"config of {what} says model_type={settings.model_type!r}")
        try:
            return kind(settings)
        except (TypeError, ValueError) as error:
            raise UserError(f"config of {what}: {error}") from error
    if ref.kind not in ("folder", "huggingface"):
        raise UserError(f"pretrained={pretrained!r}: {model_type} needs a folder or an id")
    sizes = [name for name, value in (config or {}).items() if value is not None]
    if sizes:
        raise UserError(
            f"pretrained={pretrained!r} has its own architecture: leave out {', '.join(sizes)}"
            " or set them to null"
        )
    return load_filled(kind, resolve_pretrained(pretrained), model_type)
