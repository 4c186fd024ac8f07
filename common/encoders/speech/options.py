"""Options of speech networks, for config schemas; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class SpeechModel:
    """Encoder, decoder and projections of a speech-to-text model."""

    encoder: Literal["conv", "wav2vec2"] = "conv"
    pretrained: str = "random"  # wav2vec2: see common.encoders.resolve_pretrained
    wav2vec2: dict[str, Any] = field(default_factory=dict)  # architecture with pretrained=random
    num_mels: int = 40  # conv
    dim: int = 96  # conv; a wav2vec 2.0 model brings its own
    num_convs: int = 2
    num_layers: int = 2
    num_heads: int = 4
    augment: bool = True  # conv: SpecAugment in training
    freq_width: int = 8  # of a frequency mask, in bands
    time_width: int = 20  # of a time mask, in frames
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_hidden: int | None = None  # None: four times the dimension
    dropout: float = 0.1  # conv encoder and decoder
    head_hidden: int = 512  # of both projections
    embed_dim: int = 128  # of the contrasted embeddings


@dataclass
class BeamSearch:
    """How text is generated."""

    beam_size: int = 5
    length_power: float = 0.6  # scores are divided by ((5 + length) / 6)^power
    max_length: int = 40  # generated tokens

    def __post_init__(self) -> None:
        if min(self.beam_size, self.max_length) < 1:
            raise ValueError("eval.beam_size and eval.max_length must be >= 1")
