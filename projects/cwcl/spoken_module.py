"""Speech that learns the space of a text encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import ContrastiveModule
from common.losses.temperature import LogitScale
from projects.cwcl.config import Config
from projects.cwcl.module import objective_of, terms
from projects.cwcl.speech.embedder import SpeechEmbedder


class SpeechTextCWCL(ContrastiveModule):
    """A frozen text encoder p and a speech tower q under the same objective.

    Source: Srinivasa et al. 2023, arXiv 2309.14580.

    Args:
        cfg: the experiment's config.
        text: encodes transcripts and class texts.
        speech: learns the space of `text`.

    Attributes:
        mean: (D,) subtracted from every text embedding, zero unless the model is centred.

    Distributed: gathers negatives.
    """

    mean: Tensor

    def __init__(self, cfg: Config, text: SentenceEncoder, speech: SpeechEmbedder) -> None:
        super().__init__(cfg.optim)
        self.text, self.speech, self.locked = text, speech, cfg.model.locked
        self.logit_scale = LogitScale(cfg.model.logit_scale_init, cfg.model.max_logit_scale)
        self.objective = objective_of(cfg.method)
        self.raw_weights = cfg.method.weight_features == "raw"
        self.register_buffer("mean", torch.zeros(speech.embed_dim))
        if self.locked:
            self.text.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SpeechTextCWCL":
        """Set the mode; a locked text tower stays in eval mode."""
        super().train(mode)
        if self.locked:
            self.text.eval()
        return self

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of a batch of `projects.cwcl.speech.transcribed.TranscribedSpeech`."""
        if "frozen" in batch:
            raw = batch["frozen"]
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.locked):
                raw = self.text(batch["input_ids"], batch["attention_mask"])
        frozen = raw - self.mean
        trained = self.speech(batch["waveforms"], batch["lengths"])
        guide = (raw if self.raw_weights else frozen).detach()
        scale = self.logit_scale()
        return terms(self.objective(frozen, trained, scale, guide, batch["texts"]), scale)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Embeddings (B, D) of transcripts or class texts, on the CPU."""
        return self.text.encode(list(texts), batch_size, normalize=False) - self.mean.cpu()

    def after_optimizer_step(self) -> None:
        """Keep the raw logit scale in [0, ln max_logit_scale]."""
        self.logit_scale.clamp_()
