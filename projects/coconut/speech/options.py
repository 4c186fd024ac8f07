"""Options of speech networks, for config schemas; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.ranges import Count, NonNegative, Rate, Whole


@dataclass
class SpeechModel:
    """Encoder, decoder and projections of a speech-to-text model."""

    encoder: Literal["conv", "wav2vec2"] = "conv"
    pretrained: str = "random"  # wav2vec2: see common.encoders.resolve_pretrained
    wav2vec2: dict[str, Any] = field(default_factory=dict)  # architecture with pretrained=random
    num_mels: Count = 40  # conv
    dim: Count = 96  # conv; a wav2vec 2.0 model brings its own
    num_convs: Count = 2
    num_layers: Count = 2
    num_heads: Count = 4
    augment: bool = True  # conv: SpecAugment in training
    freq_width: Whole = 8  # of a frequency mask, in bands
    time_width: Whole = 20  # of a time mask, in frames
    decoder_layers: Count = 2
    decoder_heads: Count = 4
    decoder_hidden: Count | None = None  # None: four times the dimension
    dropout: Rate = 0.1  # conv encoder and decoder
    head_hidden: Count = 512  # of both projections
    embed_dim: Count = 128  # of the contrasted embeddings

    def __post_init__(self) -> None:
        if self.encoder == "conv" and (self.dim % self.num_heads or self.dim % self.decoder_heads):
            raise ValueError(
                "model.dim must be a multiple of model.num_heads and model.decoder_heads"
            )


@dataclass
class BeamSearch:
    """How text is generated."""

    beam_size: Count = 5
    length_power: NonNegative = 0.6  # scores are divided by ((5 + length) / 6)^power
    max_length: Count = 40  # generated tokens
