"""GPR1200: 1,200 classes of ten images from six domains, each image a query over all others.

Source: Schall et al. 2021, "GPR1200: a benchmark for general-purpose content-based image
retrieval", arXiv 2111.13122; file names and the tensor resize as in the scripts that were released
with MOFI's checkpoints.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.lookup import data_root, require
from common.engine.workspace import Workspace
from common.families.image_text.data import eval_transform, normalization
from projects.mofi.class_retrieval import class_retrieval
from projects.mofi.config import Config
from projects.mofi.module import MOFI

SOURCE = "https://visual-computing.com/project/GPR1200"
SUFFIXES = (".jpg", ".jpeg", ".png")
# classes of a domain are neighbours: 200 each, in the order of the class index
DOMAINS = ("landmarks", "nature", "sketches", "objects", "products", "faces")
CLASSES_A_DOMAIN = 200


def gpr_folder(cfg: Config) -> Path | None:
    """Where the config says that GPR1200 lies; None if it is not judged."""
    name = cfg.eval.gpr1200
    return None if name is None else data_root(cfg.eval.root or cfg.data.root) / name


def gpr_files(folder: Path) -> tuple[list[Path], Tensor]:
    """Images ``<class>_<anything>`` in numerical order of class, and their classes (N,).

    Raises:
        UserError: no such folder, a name that does not start with a class, or no class of two images.
    """
    require(
        folder,
        what="GPR1200",
        layout="<class index>_<name>.jpg, 12,000 images in one folder",
        source=SOURCE,
        size="1 GB",
    )
    files = []
    for path in folder.iterdir():
        if path.suffix.lower() not in SUFFIXES:
            continue
        start = re.match(r"(\d+)_", path.name)
        if start is None:
            raise UserError(f"{path}: a name of GPR1200 starts with its class, such as 17_a.jpg")
        files.append((int(start[1]), path.name, path))
    if len({label for label, _, _ in files}) == len(files):
        raise UserError(
            f"{folder} holds {len(files)} images, no two of one class: unpack GPR1200 there"
        )
    files.sort()
    return [path for _, _, path in files], torch.tensor([label for label, _, _ in files])


def released_resize(image: Image.Image, size: int) -> Tensor:
    """(3, size, size) in [0, 1] as released: to a tensor first, then resized without antialiasing.

    The shorter side becomes `size`, bilinear; then the centre is cut out.
    """
    pixels = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    pixels = F.resize(pixels, [size], antialias=False)
    cropped: Tensor = F.center_crop(pixels, [size, size])
    return cropped


def read_image(cfg: Config, path: Path) -> Tensor:
    """What the image tower takes of a file.

    Raises:
        UserError: the file is not an image.
    """
    try:
        image = decode_image(path).convert("RGB")
    except ValueError as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error
    if cfg.eval.gpr_resize == "tensor":
        mean, std = normalization(cfg.data)
        pixels = released_resize(image, cfg.data.image_size)
        normalized: Tensor = F.normalize(pixels, list(mean), list(std))
        return normalized
    return eval_transform(cfg.data).one(image)


def gpr1200_metrics(
    cfg: Config, module: MOFI, folder: Path, workspace: Workspace
) -> dict[str, float]:
    """``gpr1200_map``, by domain ``gpr1200_map_<domain>``; model in evaluation mode."""
    device = module.logit_scale.log_scale.device

    def encode(paths: Sequence[Path]) -> Tensor:
        images = torch.stack([read_image(cfg, path) for path in paths])
        vectors: Tensor = module.encoder.encode_image(images.to(device))
        return vectors

    return gpr1200_scores(encode, folder, cfg.eval.batch_size, workspace)


def gpr1200_scores(
    encode: Callable[[Sequence[Path]], Tensor], folder: Path, batch_size: int, workspace: Workspace
) -> dict[str, float]:
    """The metrics of any encoder of image files, (B, D) rows.

    A domain of which no class has two images is left out.

    Raises:
        UserError: see `gpr_files`.
    """
    paths, labels = gpr_files(folder)
    asked = [label for label, images in Counter(labels.tolist()).items() if images > 1]
    starts = range(0, len(paths), batch_size)
    parts = [
        encode(paths[start : start + batch_size]).float().cpu()
        for start in workspace.progress(starts, "GPR1200", len(starts))
    ]
    domains = {}
    for place, name in enumerate(DOMAINS):
        classes = range(place * CLASSES_A_DOMAIN, (place + 1) * CLASSES_A_DOMAIN)
        if any(label in classes for label in asked):
            domains[name] = classes
    retrieval = class_retrieval(torch.cat(parts), labels, domains)
    return {f"gpr1200_{name}": value for name, value in retrieval.items()}
