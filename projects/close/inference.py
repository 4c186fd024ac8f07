"""An exported model for use: text for pictures, or for sentences in their place."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import load as load_config
from common.data.image.upright import upright
from common.encoders.image_text.frozen_clip import FrozenClip
from projects.close import folder as exported
from projects.close.batches import Words
from projects.close.config import Config


class Captioner:
    """A folder written by `make export`, with the dual encoder that it names.

    Args:
        folder: the folder; one that was trained on another text writes in another style.

    Raises:
        UserError: not such a folder, or absent weights.
    """

    def __init__(self, folder: str | Path) -> None:
        stored = exported.read_settings(Path(folder))
        settings = [
            f"eval.num_beams={stored['num_beams']}",
            f"eval.max_new_tokens={stored['max_new_tokens']}",
        ]
        self.module = exported.load(load_config(Config, "close", "smoke", settings), Path(folder))
        self.clip = FrozenClip(stored["clip"])
        self.words = Words(self.module.tokenizer, stored["max_context"])

    def __call__(
        self, images: Sequence[Image.Image | str | Path], context: str | Sequence[str] = ""
    ) -> list[str]:
        """A text for each picture.

        Args:
            images: PIL images or files.
            context: question, hypothesis or article, one for all or one for each.

        Raises:
            UserError: a file that is not an image.
        """
        return self.write(
            F.normalize(self.clip.encode_images([upright(i) for i in images]), dim=1), context
        )

    def from_texts(self, texts: Sequence[str], context: str | Sequence[str] = "") -> list[str]:
        """A text for each sentence, which stands in for a picture."""
        vectors = F.normalize(self.clip.encode_texts(list(texts)), dim=1)
        with torch.no_grad():
            return self.write(self.module.adapter(vectors), context)

    def write(self, vectors: Tensor, context: str | Sequence[str] = "") -> list[str]:
        """A text for each unit vector of the dual encoder, (B, D)."""
        contexts = [context] * len(vectors) if isinstance(context, str) else list(context)
        return self.module.write(vectors, *self.words.batch(contexts))
