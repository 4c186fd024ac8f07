"""The MLP heads alongside an open_clip folder, which itself has room for the linear heads only."""

from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import UserError
from common.encoders.heads import MLPHead
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
from common.encoders.state_dict import load_state, read_state_dict
from common.export.files import write_tensors
from projects.clip_baselines import open_clip_parts as parts
from projects.clip_baselines.evaluate import combined
from projects.clip_baselines.module import Rocket

FILE = "local_heads.safetensors"
SCALE, WEIGHT = "log_scale", "weight_of_z"
HALF = 0.5  # exports before the weight was stored


def save(module: Rocket, folder: Path, weight: float = HALF) -> None:
    """Write the MLP heads, the logarithm of their logit scale, and the weight of the linear heads.

    Nothing is written without such heads.
    """
    if module.local_scale is not None:
        more = {SCALE: module.local_scale.log_scale, WEIGHT: torch.tensor(weight)}
        write_tensors(folder / FILE, module.heads.local.state_dict() | more)


def load(module: Rocket, folder: Path) -> Rocket:
    """Fill the MLP heads of a module; it is returned.

    Raises:
        UserError: no such file, or heads of another shape.
    """
    if module.local_scale is not None:
        state = _read(folder)
        state.pop(WEIGHT, None)
        with torch.no_grad():
            module.local_scale.log_scale.copy_(state.pop(SCALE))
        load_state(module.heads.local, state, source=str(folder / FILE))
    return module


class ZeroShot:
    """An exported folder for use: images and texts -> cosines of the ensemble of both heads.

    Args:
        folder: as `make export` writes it.
        weight: of the linear heads, in [0, 1]; None: that of the run's headline read-out. Exports
            without MLP heads have the linear ones only.

    Attributes:
        preprocess: PIL image -> tensor (3, S, S).

    Raises:
        UserError: not such a folder.
    """

    def __init__(self, folder: str | Path, weight: float | None = None) -> None:
        folder = Path(folder)
        self.encoder = OpenClipDualEncoder.from_folder(folder).eval()
        self.preprocess = self.encoder.preprocess()
        self.heads, stored = nn.ModuleDict(), HALF
        if (folder / FILE).exists():
            state = _read(folder)
            state.pop(SCALE)
            stored = float(state.pop(WEIGHT, HALF))
            self.heads = _heads(state)
            load_state(self.heads, state, source=str(folder / FILE))
        self.heads.eval()
        self.weight = stored if weight is None else weight

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> dict[str, Tensor]:
        """``z`` and ``h``, unit rows, of preprocessed images (B, 3, S, S)."""
        features = self.encoder.image_features(images)
        return self._both("image", features, parts.project_image(self.encoder, features))

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> dict[str, Tensor]:
        """``z`` and ``h``, unit rows, of sentences."""
        features = parts.text_features(self.encoder, self.encoder.tokenizer(texts))
        return self._both("text", features, parts.project_text(self.encoder, features))

    def similarity(self, images: Tensor, texts: list[str]) -> Tensor:
        """(B, T) ``weight * cos_z + (1 - weight) * cos_h``."""
        sides = self.encode_image(images), self.encode_text(texts)
        if not len(self.heads):
            return sides[0]["z"] @ sides[1]["z"].T
        image, text = (combined(side, self.weight) for side in sides)
        return image @ text.T

    def _both(self, side: str, features: Tensor, z: Tensor) -> dict[str, Tensor]:
        vectors = {"z": z}
        if side in self.heads:
            vectors["h"] = self.heads[side](features)
        return {key: nn.functional.normalize(x, dim=1) for key, x in vectors.items()}


def _read(folder: Path) -> dict[str, Tensor]:
    if not (folder / FILE).exists():
        raise UserError(
            f"{folder} has no {FILE}: the config has separate heads, so export the run again, or"
            " set method.separate_heads=false"
        )
    return read_state_dict(folder / FILE)


def _heads(state: dict[str, Tensor]) -> nn.ModuleDict:
    """MLPs of the sizes that the file has: three linear layers, numbers 0, 3 and 6."""
    heads = nn.ModuleDict()
    for side in ("image", "text"):
        first, last = (state[f"{side}.layers.{i}.weight"] for i in (0, 6))
        width, dim = first.shape
        heads[side] = MLPHead(dim, [width, width], len(last))
    return heads
