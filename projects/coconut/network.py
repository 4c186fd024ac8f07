"""The network of a config, what is stored alongside an exported one, and a teacher's embeddings."""

from typing import Any

import torch
from torch import Tensor

from common.data.speech.sources import SAMPLE_RATES
from projects.coconut.config import Config
from projects.coconut.data import SpeechBatch
from projects.coconut.speech.speech_to_text import (
    SpeechToText,
    build_speech_to_text,
    speech_to_text_options,
)


def build_network(cfg: Config, vocab_size: int, pretrained: str | None = None) -> SpeechToText:
    """The network before the first task.

    There is no classifier: nothing grows with the tasks.

    Args:
        cfg: the experiment's config.
        vocab_size: of the decoder.
        pretrained: in place of ``model.pretrained``.
    """
    options = network_options(cfg, vocab_size)
    return build_speech_to_text(**options, pretrained=pretrained or cfg.model.pretrained)


def network_options(cfg: Config, vocab_size: int) -> dict[str, Any]:
    """Arguments of `build_speech_to_text`, without the place of pretrained weights."""
    rate = SAMPLE_RATES[cfg.data.source]
    return speech_to_text_options(cfg.model, vocab_size, rate, projections=cfg.method.contrasts)


@torch.no_grad()
def rows_embedded(network: SpeechToText, batch: SpeechBatch, rows: Tensor) -> dict[str, Tensor]:
    """A teacher's unit embeddings (B, D) of audio and text for some rows; zeros in the others.

    Args:
        network: in eval mode.
        batch: B utterances.
        rows: (B,) bool.
    """
    zeros = batch["waveforms"].new_zeros
    vectors = {name: zeros(len(rows), network.embed_dim) for name in ("audio", "text")}
    if bool(rows.any()):
        states, mask = network.encode(batch["waveforms"][rows], batch["lengths"][rows])
        vectors["audio"][rows] = network.embed_audio(states, mask).to(vectors["audio"].dtype)
        text = network.embed_text(batch["text_tokens"][rows])
        vectors["text"][rows] = text.to(vectors["text"].dtype)
    return vectors
