"""Image files and bytes, decoded at once; whatever a decoder raises is one kind of error."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from common.config import first_line
from common.files import refuse_special


class Unreadable(ValueError):
    """An image that cannot be decoded."""


def decode_image(source: str | Path | bytes) -> Image.Image:
    """An image, decoded.

    Args:
        source: path of a file, or its content.

    Raises:
        Unreadable: there is no such file, or no image in it that can be decoded.
        UserError: the path is of a pipe or a device.
    """
    if not isinstance(source, bytes):
        refuse_special(Path(source))
    with (
        readable(),
        Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image,
    ):
        image.load()
        return image


@contextmanager
def readable() -> Iterator[None]:
    """Turn whatever a decoder raises into `Unreadable`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of many kinds: each format has a decoder of its own
        said = getattr(error, "strerror", None) or first_line(error)
        raise Unreadable(f"{type(error).__name__}: {said}") from error
