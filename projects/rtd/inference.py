"""Composed search with an exported folder: a picture and a sentence over your own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from common.data.image.upright import upright
from common.evaluation.search import search
from projects.rtd.export import load_composer
from projects.rtd.pictures import preprocess

Picture = Image.Image | str | Path


class Found(NamedTuple):
    """One answer."""

    place: int  # in the index
    score: float  # cosine


class ComposedSearch:
    """An exported folder for use.

    Args:
        folder: as `make export PROJECT=rtd` writes it.

    Raises:
        UserError: not such a folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.composer = load_composer(Path(folder))
        self.preprocess = preprocess(self.composer.encoder)

    @torch.inference_mode()
    def index(self, pictures: Sequence[Picture], batch_size: int = 64) -> Tensor:
        """Unit rows (N, D) of pictures or files, by the untouched image tower.

        Raises:
            UserError: a file that is not a picture.
        """
        return F.normalize(self._images(pictures, batch_size), dim=1)

    @torch.inference_mode()
    def compose(self, picture: Picture, text: str) -> Tensor:
        """Unit embedding (D,) of a picture and what to change, such as "has dark skin tone"."""
        return F.normalize(self.composer.compose(self._images([picture], 1), [text]), dim=1)[0]

    def search(
        self, embedding: Tensor, index: Tensor, top: int = 8, exclude: Sequence[int] = ()
    ) -> list[Found]:
        """Best places of an index (N, D) for a composed embedding (D,).

        Args:
            embedding: of `compose`.
            index: of `index`.
            top: answers at most.
            exclude: places that are no answer, such as the reference's.
        """
        most = min(top, len(index) - len(set(exclude)))
        if most < 1:
            return []
        hits = search(embedding[None], index, most, exclude=[sorted(set(exclude))])
        pairs = zip(hits.indices[0].tolist(), hits.scores[0].tolist(), strict=True)
        return [Found(place, score) for place, score in pairs]

    def _images(self, pictures: Sequence[Picture], batch_size: int) -> Tensor:
        parts = []
        for start in range(0, len(pictures), batch_size):
            part = pictures[start : start + batch_size]
            pixels = torch.stack([self.preprocess(upright(picture)) for picture in part])
            parts.append(self.composer.encoder.encode_image(pixels).float())
        return torch.cat(parts)
