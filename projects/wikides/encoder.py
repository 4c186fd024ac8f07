"""The ranker's encoder: one transformer for paragraphs, candidates and descriptions; its folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common.encoders.length_groups import in_length_groups
from common.encoders.modes import evaluation_mode
from common.encoders.pretrained import stand_in
from common.encoders.text.sentence import SentenceEncoder
from common.export.projected import load_projected, save_projected
from common.families.retrieval.dense import ARCHITECTURES, build_dense
from projects.wikides.config import RankerModel


class RankerEncoder(nn.Module):
    """A text encoder with a linear map on top if asked; tokenisation is the encoder's.

    Args:
        encoder: tower, pooling and tokenizer.
        head: (F, D) map with bias; None: none.
    """

    def __init__(self, encoder: SentenceEncoder, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> vectors (B, D), not normalised."""
        groups = self.encoder.length_groups  # in validation too, whose texts are of all lengths
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        features = (
            in_length_groups(self.encoder.tower, groups, **inputs)
            if groups > 1
            else self.encoder(**inputs)
        )
        mapped: Tensor = features if self.head is None else self.head(features)
        return mapped

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """N texts -> (N, D) float32 on the CPU, not normalised, in evaluation mode."""
        features = self.encoder.encode(list(texts), batch_size, normalize=False)
        if self.head is None:
            return features
        with evaluation_mode(self.head), torch.no_grad():
            mapped: Tensor = self.head(features.to(self.head.weight)).cpu()
        return mapped


def build_encoder(model: RankerModel) -> RankerEncoder:
    """Encoder of the config, before training.

    Raises:
        UserError: absent weights, or a length above the model's.
    """
    encoder = build_dense(model)
    encoder.length_groups = model.length_groups
    head = None if model.head_dim is None else nn.Linear(encoder.num_features, model.head_dim)
    return RankerEncoder(encoder, head)


def planned_encoder(model: RankerModel) -> RankerEncoder:
    """The same shapes where the weights are not on this machine, for `make check`."""
    config = stand_in(model.pretrained, ARCHITECTURES)
    if config is not None:
        model = replace(model, pretrained="random", config=config, max_length=128)
    return build_encoder(model)


def save_encoder(encoder: RankerEncoder, folder: Path) -> None:
    """A folder that transformers (the encoder) and sentence-transformers (all of it) load."""
    save_projected(encoder.encoder, encoder.head, folder)


def load_encoder(folder: str | Path) -> RankerEncoder:
    """Encoder of such a folder, in evaluation mode.

    Raises:
        UserError: another kind of folder.
    """
    head = (Path(folder) / "2_Dense").is_dir()
    return RankerEncoder(*load_projected(folder, head=head)).eval()
