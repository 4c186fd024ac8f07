"""A dual encoder with a given image tower as a folder, and what users do with it.

What open_clip can express goes out in its format. Other towers (a CIFAR ResNet, a torchvision or
timm network with our text towers) go out as ``model.safetensors`` and ``config.json``, read by
`load_locked` alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.sources import EvalTransform
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.image_text.open_clip_dual import CONFIG_FILE, OpenClipDualEncoder
from common.encoders.modes import evaluation_mode
from common.export.files import write_json
from common.export.open_clip import load_open_clip, save_open_clip
from common.export.safetensors import load_safetensors, save_safetensors
from projects.cwcl.locked_towers import LockedEncoder, build_locked

PREPROCESS = "preprocess.json"


def save_locked(
    encoder: LockedEncoder,
    folder: str | Path,
    options: Mapping[str, Any],
    *,
    log_scale: Tensor,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write what `load_locked` reads.

    Args:
        encoder: weights of both towers.
        folder: created if needed.
        options: arguments of `build_locked` that give the same architecture, as plain values.
        log_scale: logarithm of the trained multiplier.
        image_size: input of the image tower in pixels.
        mean: of the image normalisation, 3 channels.
        std: 3 deviations.
    """
    if isinstance(encoder, OpenClipDualEncoder):
        save_open_clip(
            encoder, folder, log_scale=log_scale, mean=mean, std=std, interpolation="bilinear"
        )
        return
    save_safetensors(encoder, folder, options)
    content = {"image_size": image_size, "mean": list(mean), "std": list(std)}
    write_json(Path(folder) / PREPROCESS, {**content, "log_scale": float(log_scale)})


class LockedModel:
    """An exported model: images and texts into one space, classes without training.

    Args:
        encoder: both towers.
        transform: of a picture.
        log_scale: logarithm of the multiplier of cosines.
    """

    def __init__(self, encoder: LockedEncoder, transform: EvalTransform, log_scale: float) -> None:
        self.encoder, self.transform, self.log_scale = encoder.eval(), transform, log_scale

    def encode_images(
        self, images: Sequence[str | Path | Image.Image], batch_size: int = 256
    ) -> Tensor:
        """Unit embeddings (N, D) of pictures or their files, `batch_size` at a time.

        Raises:
            UserError: a file that is not a picture.
        """
        parts = [torch.empty(0, self.encoder.embed_dim)]
        with evaluation_mode(self.encoder):
            for i in range(0, len(images), batch_size):
                read = [self.transform.one(_opened(one)) for one in images[i : i + batch_size]]
                embedded = self.encoder.encode_image(torch.stack(read))
                parts.append(F.normalize(embedded.float(), dim=1))
        return torch.cat(parts)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit embeddings (N, D) of sentences, `batch_size` at a time."""
        assert self.encoder.tokenizer is not None
        parts = [torch.empty(0, self.encoder.embed_dim)]
        with evaluation_mode(self.encoder):
            for i in range(0, len(texts), batch_size):
                ids = self.encoder.tokenizer(list(texts[i : i + batch_size]))
                parts.append(F.normalize(self.encoder.encode_text(ids).float(), dim=1))
        return torch.cat(parts)

    def classify(self, images: Sequence[str | Path | Image.Image], texts: Sequence[str]) -> Tensor:
        """Probabilities (N, T) that a text belongs to an image."""
        cosines = self.encode_images(images) @ self.encode_texts(texts).T
        return (torch.tensor(self.log_scale).exp() * cosines).softmax(1)


def load_locked(folder: str | Path) -> LockedModel:
    """Read an exported folder of either format.

    Raises:
        UserError: not such a folder, or damaged files.
    """
    import json

    folder = Path(folder)
    if (folder / CONFIG_FILE).is_file():
        encoder = load_open_clip(folder)
        mean, std = encoder.image_mean, encoder.image_std
        transform = EvalTransform(encoder.image_size, _three(mean), _three(std))
        return LockedModel(encoder, transform, encoder.log_scale)
    try:
        stored = json.loads((folder / PREPROCESS).read_text("utf-8"))
        transform = EvalTransform(
            int(stored["image_size"]), _three(stored["mean"]), _three(stored["std"])
        )
        log_scale = float(stored["log_scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not an exported model: {error}") from error
    return LockedModel(load_safetensors(folder, _build), transform, log_scale)


def _build(**options: Any) -> LockedEncoder:
    length = (options.get("text") or {}).get("context_length", 77)
    return build_locked(**options, tokenizer=ClipTokenizer(length))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _opened(image: str | Path | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    try:
        return decode_image(image).convert("RGB")
    except ValueError as error:
        raise UserError(f"{image} is not a readable picture: {error}") from error
