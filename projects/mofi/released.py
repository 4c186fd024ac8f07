"""`make run TASK=released`: the authors' checkpoints, which transformers opens, on GPR1200."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize
from transformers import AutoModel

from common.config import UserError
from common.damage import reading
from common.data.image.sources import CLIP_MEAN, CLIP_STD
from common.data.lookup import data_root, require
from common.engine.workspace import Workspace
from projects.mofi.config import Config
from projects.mofi.gpr1200 import gpr1200_scores, released_resize

SIDE = 224
SOURCE = "https://github.com/apple/ml-mofi"


def evaluate_released(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """``gpr1200_map`` and its parts by domain, by the released protocol.

    Images become tensors before they are resized without antialiasing; vectors have unit length.

    Source: Wu et al. 2024, release (`eval/gpr1200.py`, `eval/utils.py`), arXiv 2306.07952.

    Raises:
        UserError: no model or no images are named, or they are not there or damaged.
    """
    options = cfg.released
    if options.model is None or cfg.eval.gpr1200 is None:
        raise UserError(
            "set released.model (a folder such as mofi-b16-hf) and eval.gpr1200 (its images)"
        )
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = released_model(Path(options.model).expanduser()).to(device)

    @torch.inference_mode()
    def encode(paths: Sequence[Path]) -> Tensor:
        pixels = torch.stack([_pixels(path) for path in paths])
        output = model.get_image_features(pixel_values=pixels.to(device))
        # transformers 5 returns the vectors among other outputs
        vectors = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(vectors, dim=1)

    folder = data_root(cfg.eval.root or cfg.data.root) / cfg.eval.gpr1200
    metrics = gpr1200_scores(encode, folder, options.batch_size, workspace)
    for name, value in metrics.items():
        workspace.say(f"{name}: {100 * value:.2f}")
    return metrics


def released_model(folder: Path) -> Any:
    """Both towers in evaluation mode.

    Raises:
        UserError: no such folder, or one without image features.
    """
    require(
        folder / "config.json",
        what="a released checkpoint of MOFI",
        layout="config.json, weights and tokenizer of mofi-b16-hf.zip, -l14-hf or -h14-hf",
        source=SOURCE,
        size="0.6 to 4 GB",
    )
    with reading(folder, "folder of transformers"):
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    if not hasattr(model, "get_image_features"):
        raise UserError(f"{folder} holds a {type(model).__name__}, which has no image features")
    return model.eval()


def _pixels(path: Path) -> Tensor:
    with reading(path, "image"), Image.open(path) as image:
        pixels = released_resize(image.convert("RGB"), SIDE)
    normalized: Tensor = normalize(pixels, list(CLIP_MEAN), list(CLIP_STD))
    return normalized
