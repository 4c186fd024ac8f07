"""Image files whose pixels are decoded when the crops of them are known."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image, JpegImagePlugin
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2.functional import pil_to_tensor

from common.data.decode import readable
from common.files import refuse_special

_REDUCTIONS = (8, 4, 2)  # at which a JPEG decoder can work
_GAP = 2.0  # what a reduction leaves to the filter: PIL's thumbnails, "almost indistinguishable"


class OpenedImage:
    """An image of which only the header was read so far.

    Attributes:
        height: of the whole image, in pixels.
        width: of the whole image, in pixels.

    Args:
        image: PIL image, decoded or not.
        content: the file's bytes, if a JPEG may be decoded from them.
    """

    def __init__(self, image: Image.Image, content: bytes | None = None) -> None:
        self.width, self.height = image.size
        self._image, self._content = image, content
        self._reduction = 1
        self._pixels: Tensor | None = None

    @classmethod
    @contextmanager
    def open(cls, source: str | Path | bytes) -> Iterator["OpenedImage"]:
        """An image file, or its content.

        Raises:
            Unreadable: there is no such file, or no image in it that can be decoded.
            UserError: the path is of a pipe or a device.
        """
        if not isinstance(source, bytes):
            refuse_special(Path(source))
        with readable():
            content = source if isinstance(source, bytes) else Path(source).read_bytes()
            image = Image.open(io.BytesIO(content))
        with image:
            yield cls(image, content)

    def allow_reduction(self, factor: float) -> None:
        """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size.

        Args:
            factor: by which all crops are made smaller; the filter keeps at least 2 of it.
        """
        if isinstance(self._image, JpegImagePlugin.JpegImageFile) and self._pixels is None:
            self._reduction = next((r for r in _REDUCTIONS if r * _GAP <= factor), 1)

    def region(self, top: float, left: float, height: float, width: float) -> Tensor:
        """Pixels of a box, which is given in pixels of the whole image.

        Returns:
            (3, H, W) uint8, where H, W are `height`, `width` over the reduction.

        Raises:
            Unreadable: the image cannot be decoded.
        """
        pixels = self.pixels()
        down, right = pixels.shape[1] / self.height, pixels.shape[2] / self.width
        rows = slice(round(top * down), max(round((top + height) * down), 1))
        columns = slice(round(left * right), max(round((left + width) * right), 1))
        return pixels[:, rows, columns]

    def pixels(self) -> Tensor:
        """The image, (3, H, W) uint8, at its size or at the allowed reduction.

        Raises:
            Unreadable: the image cannot be decoded.
        """
        if self._pixels is None:
            with readable():
                self._pixels = self._decode()
        return self._pixels

    def pil(self) -> Image.Image:
        """The image at its size.

        Raises:
            Unreadable: it cannot be decoded.
        """
        with readable():
            self._image.load()
        return self._image

    def _decode(self) -> Tensor:
        image = self._image
        if self._reduction > 1:
            image.draft("RGB", (self.width // self._reduction, self.height // self._reduction))
        elif self._content is not None and image.format == "JPEG" and image.mode == "RGB":
            data = torch.frombuffer(bytearray(self._content), dtype=torch.uint8)
            try:
                return decode_jpeg(data, mode=ImageReadMode.RGB)  # type: ignore[no-any-return]
            except RuntimeError:
                pass  # PIL decides whether it can be read
        return pil_to_tensor(image.convert("RGB"))  # type: ignore[no-any-return]
