"""A dual encoder that is never trained: no gradients, no part of the state of its user."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.image_text.open_clip_dual import open_clip_dual_encoder


class FrozenClip:
    """An open_clip model as a function; not a module, so that no checkpoint holds its weights.

    Args:
        pretrained: a folder that open_clip exported, ``bundled:<name>`` or
            ``open_clip:<name>/<tag>``.
        half: weights in half precision on a GPU; vectors are float32 in any case.

    Attributes:
        preprocess: PIL image -> (3, S, S) float32, see `OpenClipDualEncoder.preprocess`.
        dim: D.

    Raises:
        UserError: weights that are absent, do not fit, or are random.
    """

    def __init__(self, pretrained: str, *, half: bool = False) -> None:
        if pretrained == "random":
            raise UserError("a frozen dual encoder needs weights: set model.clip, not to 'random'")
        encoder = open_clip_dual_encoder(None, pretrained)
        self.encoder = encoder.requires_grad_(False).eval()
        self.half, self.dim = half, encoder.embed_dim
        self.preprocess = encoder.preprocess()

    def to(self, device: torch.device) -> "FrozenClip":
        """Move the weights; returns itself."""
        if next(self.encoder.parameters()).device != device:
            self.encoder.to(device)
            self.encoder.to(torch.float16 if self.half and device.type == "cuda" else torch.float32)
        return self

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Ids (B, L) of texts, cut to the context length."""
        assert self.encoder.tokenizer is not None
        return self.encoder.tokenizer(list(texts))

    @torch.no_grad()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, D) float32, not normalised, where the ids are."""
        return self.to(tokens.device).encoder.encode_text(tokens).float()

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32, not normalised, where the pixels are."""
        encoder = self.to(pixels.device).encoder
        return encoder.encode_image(pixels.to(next(encoder.parameters()).dtype)).float()

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Vectors (N, D) float32 of texts, not normalised, on the CPU."""
        device = next(self.encoder.parameters()).device
        parts = [
            self.encode_tokens(self.tokens(texts[i : i + batch_size]).to(device)).cpu()
            for i in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.dim)

    def encode_images(self, images: Sequence[Any], batch_size: int = 256) -> Tensor:
        """Vectors (N, D) float32 of PIL images, not normalised, on the CPU."""
        device = next(self.encoder.parameters()).device
        parts = []
        for i in range(0, len(images), batch_size):
            pixels = torch.stack([self.preprocess(image) for image in images[i : i + batch_size]])
            parts.append(self.encode_pixels(pixels.to(device)).cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.dim)
