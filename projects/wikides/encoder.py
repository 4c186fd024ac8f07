"""The ranker's encoder: one transformer for paragraphs, candidates and descriptions; its folder."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import torch
from torch import Tensor, nn

from common.damage import reading
from common.encoders.length_groups import in_length_groups
from common.encoders.modes import evaluation_mode
from common.encoders.pretrained import ARCHITECTURES, stand_in
from common.encoders.text.sentence import SentenceEncoder
from common.export.files import write_json
from common.export.projected import load_projected, save_projected
from common.families.retrieval.dense import build_dense
from projects.wikides.config import MethodConfig, RankerModel

SCORES_FILE = "scores.json"  # alongside the weights: how candidates are scored
SCORES = ("use_sim", "use_rouge", "sim_range")  # of `MethodConfig`


class RankerEncoder(nn.Module):
    """A text encoder with a linear map on top if asked; tokenisation is the encoder's.

    Args:
        encoder: tower, pooling and tokenizer.
        head: (F, D) map with bias; None: none.

    Attributes:
        method: how candidates are scored, where the encoder is of an exported folder that says so.
    """

    method: MethodConfig | None = None

    def __init__(self, encoder: SentenceEncoder, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> vectors (B, D), not normalised."""
        # in validation too, whose texts are of all lengths
        groups = self.encoder.length_groups or 1
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


def save_encoder(encoder: RankerEncoder, method: MethodConfig, folder: Path) -> None:
    """A folder that transformers (the encoder) and sentence-transformers (all of it) load.

    Alongside them lies how the method scores candidates, which the weights don't tell.
    """
    save_projected(encoder.encoder, encoder.head, folder)
    write_json(folder / SCORES_FILE, {name: getattr(method, name) for name in SCORES})


def load_encoder(folder: str | Path) -> RankerEncoder:
    """Encoder of such a folder, in evaluation mode.

    Its ``method`` is None where the folder has none.

    Raises:
        UserError: another kind of folder, or damaged settings of the scores.
    """
    head = (Path(folder) / "2_Dense").is_dir()
    encoder = RankerEncoder(*load_projected(folder, head=head)).eval()
    path = Path(folder) / SCORES_FILE
    if path.is_file():
        with reading(path, f"file of {', '.join(SCORES)}"):
            encoder.method = _method(json.loads(path.read_text(encoding="utf-8")))
    return encoder


def _method(stored: object) -> MethodConfig:
    if not isinstance(stored, dict) or set(stored) != set(SCORES):
        raise ValueError("other names")
    if not all(isinstance(stored[name], bool) for name in SCORES[:2]):
        raise ValueError("use_sim and use_rouge are true or false")
    ranges = get_args(get_type_hints(MethodConfig)["sim_range"])
    if stored["sim_range"] not in ranges:
        raise ValueError(f"sim_range is one of {', '.join(ranges)}")
    return MethodConfig(**stored)
