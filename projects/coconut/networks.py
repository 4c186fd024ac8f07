"""The sequence-to-sequence model, and its use on waveforms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.config import UserError
from common.data.speech.transcripts import EOS, PAD, SOS, SPECIAL, SpokenTarget, TranscriptTokenizer
from common.data.speech.waveforms import pad_waveforms
from common.encoders.heads import MLPHead
from common.encoders.modes import evaluation_mode
from common.encoders.speech.attention_decoder import AttentionDecoder, beam_search
from common.encoders.speech.speech_towers import (
    ConvTransformerEncoder,
    SpecAugment,
    Wav2Vec2Encoder,
    frame_mask,
    wav2vec2_encoder,
)
from common.encoders.text.pooling import mean_pool
from common.export.safetensors import load_safetensors
from common.losses.output import unit
from projects.coconut.config import Config
from projects.coconut.data import SAMPLE_RATES

TOKENIZER = "tokenizer.json"


class SpeechToIntent(nn.Module):
    """Audio encoder, decoder that writes intent and transcript, and two projections.

    There is no classifier: nothing grows with the tasks. The text encoder of the contrastive terms
    is the decoder's embedding table.

    Source: Cappellazzo et al. 2024, section 3, arXiv 2310.02699.

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
        self.encoder, self.decoder = encoder, decoder
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
        return unit(self.audio_head(mean_pool(states, mask)))

    def embed_text(self, tokens: Tensor) -> Tensor:
        """h^t (B, embed_dim), unit length: mean embedding, projected."""
        assert self.text_head is not None
        return unit(self.text_head(self.pooled_text(tokens)))

    def generate(
        self, states: Tensor, mask: Tensor, *, beam_size: int, max_length: int, power: float
    ) -> Tensor:
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
            beam_size=beam_size,
            max_length=max_length,
            power=power,
            device=states.device,
        )
        return tokens


def build_network(
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
) -> SpeechToIntent:
    """Network of the config's values; also rebuilds an exported one."""
    audio: Wav2Vec2Encoder | ConvTransformerEncoder
    if encoder == "wav2vec2":
        audio = wav2vec2_encoder(pretrained, wav2vec2)
        dim = audio.dim
    else:
        masks = SpecAugment(freq_width=freq_width, time_width=time_width) if augment else None
        audio = ConvTransformerEncoder(
            sample_rate, num_mels=num_mels, dim=dim, num_convs=num_convs, num_layers=num_layers,
            num_heads=num_heads, dropout=dropout, augment=masks,
        )  # fmt: skip
    decoder = AttentionDecoder(
        vocab_size, dim, decoder_layers, decoder_heads, hidden_dim=decoder_hidden, dropout=dropout
    )
    return SpeechToIntent(audio, decoder, head_hidden, embed_dim)


def network_options(cfg: Config, vocab_size: int) -> dict[str, Any]:
    """Arguments of `build_network`, without the place of pretrained weights."""
    model = cfg.model
    names = (
        "encoder", "num_mels", "dim", "num_convs", "num_layers", "num_heads", "augment",
        "freq_width", "time_width", "decoder_layers", "decoder_heads", "decoder_hidden", "dropout",
        "head_hidden",
    )  # fmt: skip
    return {
        "vocab_size": vocab_size,
        "sample_rate": SAMPLE_RATES[cfg.data.source],
        "wav2vec2": dict(model.wav2vec2),
        **{name: getattr(model, name) for name in names},
        "embed_dim": model.embed_dim if cfg.method.contrasts else None,
    }


class Recognizer:
    """An exported model with its tokenizer: waveforms in, intents and transcripts out.

    Args:
        network: in eval mode.
        tokenizer: of its vocabulary.
    """

    def __init__(self, network: SpeechToIntent, tokenizer: TranscriptTokenizer) -> None:
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
        return cls(load_safetensors(folder, build_network), tokenizer)

    def __call__(
        self,
        waveforms: Sequence[Tensor],
        *,
        beam_size: int = 5,
        max_length: int = 40,
        power: float = 0.6,
    ) -> list[SpokenTarget]:
        """Intent, slots and transcript of every waveform.

        Args:
            waveforms: (T_i,) float32 each, at the sample rate of the model's config.
            beam_size: beams; 1 is greedy.
            max_length: generated tokens at most.
            power: of the length penalty.
        """
        device = next(self.network.parameters()).device
        padded, lengths = pad_waveforms(waveforms)
        with evaluation_mode(self.network):
            states, mask = self.network.encode(padded.to(device), lengths.to(device))
            tokens = self.network.generate(
                states, mask, beam_size=beam_size, max_length=max_length, power=power
            )
        return [self.tokenizer.decode_target(row) for row in tokens.tolist()]


def exported_options(cfg: Config, vocab_size: int, network: SpeechToIntent) -> dict[str, Any]:
    """`network_options` with the architecture that pretrained weights have brought."""
    options = network_options(cfg, vocab_size)
    if isinstance(network.encoder, Wav2Vec2Encoder):
        options["wav2vec2"] = network.encoder.model.config.to_diff_dict()
    return options
