"""An instructed encoder as a module of sentence-transformers.

Imported by that library's users only.

The prompt of ``encode(texts, prompt=...)`` is the whole prefix of a text, as that library has it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_transformers.models import InputModule
from torch import Tensor

from projects.nv_embed.encoder.exported import load_instructed, save_instructed
from projects.nv_embed.encoder.instructed import InstructedEncoder


class InstructedModule(InputModule):
    """Tokenises with the instruction apart, runs the language model, pools without it.

    Args:
        encoder: in eval mode.
    """

    save_in_root = True

    def __init__(self, encoder: InstructedEncoder) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, encoder.tokenizer
        self.max_seq_length = encoder.max_length

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **_: Any
    ) -> dict[str, Tensor]:
        """Inputs of `forward` for some texts."""
        return self.encoder.pad(self.encoder.prefixed_rows(list(inputs), prompt or ""))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds ``sentence_embedding``, (B, D)."""
        names = ("input_ids", "attention_mask", "pool_mask")
        features["sentence_embedding"] = self.encoder(**{name: features[name] for name in names})
        return features

    def get_embedding_dimension(self) -> int:
        """D."""
        return self.encoder.num_features

    def get_sentence_embedding_dimension(self) -> int:
        """D, under the older name."""
        return self.encoder.num_features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the folder."""
        save_instructed(self.encoder, output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> "InstructedModule":
        """Read a local folder."""
        return cls(load_instructed(Path(model_name_or_path) / subfolder))
