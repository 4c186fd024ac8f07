"""An exported model: objects of any names in a picture, vectors of regions, places of texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.config import UserError
from common.data.image.upright import upright
from common.evaluation.image_text.zeroshot import SIMPLE_TEMPLATES
from common.losses.output import unit
from projects.dito.coco import to_square
from projects.dito.config import ScoreConfig
from projects.dito.detection.drawn_boxes import draw_boxes
from projects.dito.detection.mask_head import paste
from projects.dito.detector import detect, need_head, similarity_maps
from projects.dito.folder import load_network

Picture = Image.Image | str | Path


class Found(NamedTuple):
    """One object: box x1, y1, x2, y2 in the picture's pixels."""

    box: tuple[float, float, float, float]
    name: str
    score: float
    mask: NDArray[np.bool_] | None = None  # (height, width), of a model with a mask head


class Detector:
    """A folder written by `make export`.

    Args:
        folder: of any stage; image-level pretraining alone has no trained head, and of it only
            `text_embed` and ``similarity(..., "patch")`` answer.
        score: weights and thresholds; None: the released ones. The folder's `temp_det` is taken in
            any case: the box head was trained with it.

    Raises:
        UserError: not such a folder.
    """

    def __init__(self, folder: str | Path, score: ScoreConfig | None = None) -> None:
        self.network, settings = load_network(Path(folder))
        self.size = int(settings["image_size"])
        self.templates = SIMPLE_TEMPLATES if settings["templates"] == "clip" else ("{}",)
        self.score = replace(score or ScoreConfig(), temp_det=float(settings["temp_det"]))

    def __call__(
        self,
        picture: Picture,
        names: Sequence[str],
        *,
        base: Sequence[str] | None = None,
        threshold: float = 0.0,
    ) -> list[Found]:
        """Objects of the given names, best first.

        Args:
            picture: PIL image or file.
            names: any texts; the classes of this call.
            base: those of them that the detector was trained on with boxes; None: those that the
                export names.
            threshold: least score.

        Raises:
            UserError: a file that is not an image, no names, or a `base` that is not a name.
        """
        if base is None:
            base = [name for name in names if name in self.network.base_names]
        unknown = sorted(set(base) - set(names))
        if unknown:
            raise UserError(f"base names {unknown} are not among the names")
        classes = self.network.classes(names, self.templates)
        split = torch.tensor([False, *(n in set(base) for n in names)]) if base else None
        image = upright(picture)
        pixels, factor = to_square(image, self.size)
        size = (round(image.height * factor), round(image.width * factor))
        score = replace(self.score, threshold=max(threshold, self.score.threshold))
        detections = detect(self.network, pixels[None], classes, score, split, [size])[0]
        boxes = detections.boxes / factor
        rows = zip(
            boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True
        )
        found = [Found(_box(box), names[label - 1], value) for box, label, value in rows]
        if detections.masks is None:
            return found
        whole = (image.height, image.width)
        masks = [paste(m, b, whole) for m, b in zip(detections.masks, boxes, strict=True)]
        return [f._replace(mask=mask) for f, mask in zip(found, masks, strict=True)]

    def region_embed(self, picture: Picture, boxes: Sequence[Sequence[float]]) -> Tensor:
        """Unit vectors (N, D) of boxes (x1, y1, x2, y2) in the picture's pixels, for retrieval.

        Raises:
            UserError: a model of image-level pretraining alone.
        """
        need_head(self.network)
        pixels, factor = to_square(upright(picture), self.size)
        with torch.no_grad():
            return unit(
                self.network.region_vectors(
                    pixels[None], [torch.tensor(boxes).view(-1, 4).float() * factor]
                )
            )

    def text_embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of texts in the same space."""
        return self.network.classes(texts, self.templates)[1:]

    def similarity(self, picture: Picture, texts: Sequence[str], kind: str = "region") -> Tensor:
        """Cosine maps (N, h, w) of texts over the picture's square input.

        Args:
            picture: PIL image or file.
            texts: N texts.
            kind: "region", or "patch" for image-level pretraining's own tokens.

        Raises:
            UserError: another kind, or regions of a model of image-level pretraining alone.
        """
        pixels, _ = to_square(upright(picture), self.size)
        with torch.no_grad():
            return similarity_maps(self.network, pixels[None], self.text_embed(texts)[None], kind)[
                0
            ]

    @staticmethod
    def draw(picture: Picture, detections: Sequence[Found]) -> Image.Image:
        """The picture with boxes, names and masks."""
        return draw_boxes(
            upright(picture),
            [f.box for f in detections],
            [f.name for f in detections],
            [f.score for f in detections],
            [f.mask for f in detections],
        )


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
