"""The exported folder, and a retriever that opens it: weights, options, tokenizer, image size."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.config import UserError
from common.data.image.sources import SquareTransform
from common.encoders.text.tower import load_tokenizer
from common.export.safetensors import load_safetensors, save_safetensors
from projects.one_to_k.config import Config
from projects.one_to_k.data import Tokenizer, build_tokenizer
from projects.one_to_k.fixed_length import FixedLengthTokenizer, NgramTokenizer
from projects.one_to_k.multilingual import plain_caption
from projects.one_to_k.network import CrossLingualNetwork, build_network


def save_export(
    cfg: Config, network: CrossLingualNetwork, temperature: float, folder: Path
) -> None:
    """``model.safetensors`` and ``config.json``; the tokenizer of a transformer alongside them."""
    tokenizer = build_tokenizer(cfg.model)
    reading: dict[str, Any] = {
        "image_size": cfg.data.image_size,
        "max_words": cfg.data.max_words,
        "max_tokens": cfg.model.max_tokens,
        "temperature": temperature,
    }
    if isinstance(tokenizer, NgramTokenizer):
        reading["ngrams"] = [tokenizer.num_buckets, list(tokenizer.sizes)]
    save_safetensors(network, folder, {"network": network.options, "reading": reading})
    if isinstance(tokenizer, FixedLengthTokenizer):
        tokenizer.tokenizer.save_pretrained(folder / "tokenizer")


def load_export(folder: str | Path) -> tuple[CrossLingualNetwork, dict[str, Any]]:
    """Network in evaluation mode, and how images and texts are read.

    Raises:
        UserError: missing files or another model.
    """
    network = load_safetensors(folder, lambda network, reading: build_network(**network))
    reading = json.loads((Path(folder) / "config.json").read_text("utf-8"))["reading"]
    return network, reading


class Retriever:
    """An exported model with its tokenizer: images and texts of any language to unit vectors.

    Args:
        network: towers.
        tokenizer: of its texts.
        reading: `image_size` and `max_words`.
    """

    def __init__(
        self, network: CrossLingualNetwork, tokenizer: Tokenizer, reading: dict[str, Any]
    ) -> None:
        self.network, self.tokenizer = network.eval(), tokenizer
        self.transform, self.max_words = (
            SquareTransform(reading["image_size"]),
            reading["max_words"],
        )

    @classmethod
    def load(cls, folder: str | Path) -> "Retriever":
        """Open an exported folder.

        Raises:
            UserError: see `load_export`.
        """
        network, reading = load_export(folder)
        if "ngrams" in reading:
            buckets, sizes = reading["ngrams"]
            return cls(network, NgramTokenizer(buckets, sizes, reading["max_tokens"]), reading)
        tokenizer = load_tokenizer(str(Path(folder) / "tokenizer"))
        return cls(network, FixedLengthTokenizer(tokenizer, reading["max_tokens"]), reading)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 256) -> Tensor:
        """Unit vectors (N, D) of PIL images, `batch_size` at a time."""
        parts = [
            self.network.image_embeddings(
                self.network.image_encoder(self._pixels(images[i : i + batch_size]))
            )
            for i in range(0, len(images), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.network.options["embed_dim"])

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit vectors (N, D) of texts, `batch_size` at a time."""
        parts = [
            self.network.text_embeddings(self._states(texts[i : i + batch_size])[0])
            for i in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.network.options["embed_dim"])

    @torch.inference_mode()
    def match(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Probability (N,) that image i and text i belong together, for the best of a search.

        Raises:
            UserError: a model without a matching head.
        """
        if self.network.matching is None:
            raise UserError("this model was trained without matching: method.itm_weight was 0")
        tokens = self.network.image_encoder(self._pixels(images))
        return self.network.match(*self._states(texts), tokens).softmax(1)[:, 1]

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self.transform.one(image) for image in images])

    def _states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = self.tokenizer([plain_caption(text, self.max_words) for text in texts])
        return self.network.text_encoder.text(ids)
