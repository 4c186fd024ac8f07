"""Tokenizers of open_clip models that are not CLIP's byte-pair encoding."""

from collections.abc import Sequence

import open_clip
from torch import Tensor

from common.config import UserError, first_line
from common.data.text.tokenizers import ClipTokenizer


class OwnTokenizer(ClipTokenizer):
    """The tokenizer that an open_clip model names as its own, such as SigLIP's SentencePiece.

    Args:
        model: name of the open_clip model.

    Raises:
        UserError: it is not on this machine; says how to get it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        try:
            self._own = open_clip.get_tokenizer(model)
        except Exception as error:  # of transformers, huggingface_hub or a library in Rust
            name = open_clip.get_model_config(model)["text_cfg"]["hf_tokenizer_name"]
            raise UserError(
                f"model.open_clip={model} has a tokenizer of its own, {name}, which cannot be"
                f" loaded ({first_line(error)}). Run once with a network connection (and without"
                " HF_HUB_OFFLINE): python -c 'import open_clip;"
                f' open_clip.get_tokenizer("{model}")\''
            ) from error
        self.context_length = int(self._own.context_length)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (B, context_length) int64, padded as the model's are."""
        ids: Tensor = self._own([texts] if isinstance(texts, str) else list(texts))
        return ids

    def __reduce__(self) -> tuple[type["OwnTokenizer"], tuple[str]]:  # type: ignore[override]
        return OwnTokenizer, (self.model,)
