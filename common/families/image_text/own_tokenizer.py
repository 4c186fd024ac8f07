"""Tokenizers of open_clip models that are not CLIP's byte-pair encoding."""

from collections.abc import Sequence

import open_clip
from torch import Tensor

from common.data.text.tokenizers import ClipTokenizer
from common.encoders.pretrained import PretrainedRef, loading


class OwnTokenizer(ClipTokenizer):
    """The tokenizer that an open_clip model names as its own, such as SigLIP's SentencePiece.

    Args:
        model: name of the open_clip model.

    Raises:
        UserError: its files are not on this machine; names what to download.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        name = str(open_clip.get_model_config(model)["text_cfg"].get("hf_tokenizer_name", model))
        with loading(PretrainedRef("huggingface", name, present=False)):
            self._own = open_clip.get_tokenizer(model)
        self.context_length = int(self._own.context_length)

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (B, context_length) int64, padded as the model's are."""
        ids: Tensor = self._own([texts] if isinstance(texts, str) else list(texts))
        return ids

    def __reduce__(self) -> tuple[type["OwnTokenizer"], tuple[str]]:  # type: ignore[override]
        return OwnTokenizer, (self.model,)
