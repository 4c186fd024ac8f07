"""Images of a user, in the orientation in which they are seen."""

from pathlib import Path

from PIL import Image, ImageOps

from common.config import UserError
from common.data.decode import decode_image

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # suffixes of what is looked for in folders


def upright(picture: Image.Image | str | Path) -> Image.Image:
    """An image as RGB, turned as its EXIF orientation requires.

    Boxes and crops are in the pixels of what is seen.

    Args:
        picture: an image, or the path of a file.

    Raises:
        UserError: a file that is missing or no picture.
    """
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture).convert("RGB")
    try:
        return ImageOps.exif_transpose(decode_image(Path(picture).expanduser())).convert("RGB")
    except ValueError as error:
        raise UserError(f"cannot read {picture} as an image: {error}") from error
