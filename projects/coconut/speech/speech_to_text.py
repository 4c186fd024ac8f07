"""A sequence-to-sequence speech model whose audio and text can be contrasted.

# B batch, T samples, S states, L tokens, D dim, V vocabulary
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.heads import MLPHead
from common.encoders.pooling import mean_pool
from common.encoders.speech.speech_towers import (
    ConvTransformerEncoder,
    SpecAugment,
    Wav2Vec2Encoder,
    frame_mask,
    wav2vec2_encoder,
)
from projects.coconut.speech.attention_decoder import AttentionDecoder, beam_search
from projects.coconut.speech.options import BeamSearch, SpeechModel
from projects.coconut.speech.special_tokens import EOS, PAD, SOS, SPECIAL


class SpeechToText(nn.Module):
    """Audio encoder, attention decoder, and projections of audio and text into one space.

    The text encoder of contrastive terms is the decoder's embedding table.

    Source: Cappellazzo et al. 2024, section 3, arXiv 2310.02699; Dong et al. 2018
    (Speech-Transformer) without the projections.

    Args:
        encoder: (waveforms, lengths) -> states (B, S, D), lengths (B,); has ``dim``.
        decoder: over the tokens, of the same D.
        head_hidden: hidden width of the projections.
        embed_dim: of the contrasted embeddings; None builds no projections.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: AttentionDecoder,
        head_hidden: int = 512,
        embed_dim: int | None = 128,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.embed_dim = encoder, decoder, embed_dim or 0
        self.audio_head = self.text_head = None
        if embed_dim is not None:  # last, so that the rest starts equal with and without them
            self.audio_head, self.text_head = (
                MLPHead(decoder.dim, [head_hidden], embed_dim, norm="none") for _ in range(2)
            )

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-padded waveforms (B, T), lengths (B,) -> states (B, S, D), mask (B, S) bool."""
        states, lengths = self.encoder(waveforms, lengths)
        return states, frame_mask(lengths, states.shape[1])

    def logits(self, tokens: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Next-token logits (B, L - 1, V) of sequences (B, L) under teacher forcing."""
        output: Tensor = self.decoder(tokens[:, :-1], states, mask)
        return output

    def pooled_text(self, tokens: Tensor) -> Tensor:
        """Mean embedding of the tokens that are words, (B, L) -> (B, D)."""
        mask = tokens >= len(SPECIAL)
        mask = mask | (~mask.any(1, keepdim=True) & (tokens != PAD))  # nothing but unknown words
        return mean_pool(self.decoder.embedding(tokens), mask)

    def embed_audio(self, states: Tensor, mask: Tensor) -> Tensor:
        """h^a (B, embed_dim), unit length: mean over real frames, projected."""
        assert self.audio_head is not None
        return _unit(self.audio_head(mean_pool(states, mask)))

    def embed_text(self, tokens: Tensor) -> Tensor:
        """h^t (B, embed_dim), unit length: mean embedding, projected."""
        assert self.text_head is not None
        return _unit(self.text_head(self.pooled_text(tokens)))

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Zero-padded waveforms (B, T), lengths (B,) -> (B, D), mean over real frames."""
        return mean_pool(*self.encode(waveforms, lengths))

    def generate(self, states: Tensor, mask: Tensor, search: BeamSearch) -> Tensor:
        """Token sequences (B, L) by beam search, start token included."""

        def log_probs(tokens: Tensor, rows: Tensor) -> Tensor:
            logits: Tensor = self.decoder(tokens, states[rows], mask[rows])
            return logits[:, -1].float().log_softmax(1)

        tokens, _ = beam_search(
            log_probs,
            len(states),
            sos=SOS,
            eos=EOS,
            pad=PAD,
            beam_size=search.beam_size,
            max_length=search.max_length,
            power=search.length_power,
            device=states.device,
        )
        return tokens

    def transcribe(self, waveforms: Tensor, lengths: Tensor, search: BeamSearch) -> Tensor:
        """`generate` from zero-padded waveforms (B, T) and lengths (B,)."""
        return self.generate(*self.encode(waveforms, lengths), search)


def build_speech_to_text(
    vocab_size: int,
    sample_rate: int,
    encoder: str,
    wav2vec2: dict[str, Any],
    num_mels: int,
    dim: int,
    num_convs: int,
    num_layers: int,
    num_heads: int,
    augment: bool,
    freq_width: int,
    time_width: int,
    decoder_layers: int,
    decoder_heads: int,
    decoder_hidden: int | None,
    dropout: float,
    head_hidden: int,
    embed_dim: int | None,
    pretrained: str = "random",
) -> SpeechToText:
    """Network from plain values, as they are stored alongside exported weights."""
    audio: Wav2Vec2Encoder | ConvTransformerEncoder
    if encoder == "wav2vec2":
        audio = wav2vec2_encoder(pretrained, wav2vec2)
        dim = audio.dim
    else:
        masks = SpecAugment(freq_width=freq_width, time_width=time_width) if augment else None
        audio = ConvTransformerEncoder(
            sample_rate,
            num_mels=num_mels,
            dim=dim,
            num_convs=num_convs,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            augment=masks,
        )
    decoder = AttentionDecoder(
        vocab_size, dim, decoder_layers, decoder_heads, hidden_dim=decoder_hidden, dropout=dropout
    )
    return SpeechToText(audio, decoder, head_hidden, embed_dim)


def speech_to_text_options(
    model: SpeechModel, vocab_size: int, sample_rate: int, *, projections: bool
) -> dict[str, Any]:
    """Arguments of `build_speech_to_text`, without the place of pretrained weights.

    Args:
        model: options.
        vocab_size: of the decoder.
        sample_rate: in Hz.
        projections: whether audio and text are projected.
    """
    names = (
        "encoder",
        "num_mels",
        "dim",
        "num_convs",
        "num_layers",
        "num_heads",
        "augment",
        "freq_width",
        "time_width",
        "decoder_layers",
        "decoder_heads",
        "decoder_hidden",
        "dropout",
        "head_hidden",
    )
    return {
        "vocab_size": vocab_size,
        "sample_rate": sample_rate,
        "wav2vec2": dict(model.wav2vec2),
        **{name: getattr(model, name) for name in names},
        "embed_dim": model.embed_dim if projections else None,
    }


def exported_options(options: dict[str, Any], network: SpeechToText) -> dict[str, Any]:
    """`options` with the architecture that pretrained weights have brought."""
    if isinstance(network.encoder, Wav2Vec2Encoder):
        return {**options, "wav2vec2": network.encoder.model.config.to_diff_dict()}
    return options


def _unit(x: Tensor) -> Tensor:
    """Unit rows, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
