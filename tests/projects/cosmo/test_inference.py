"""Pictures that a user hands over."""

import pytest
from PIL import Image

from common.config import UserError
from projects.cosmo.inference import opened


def test_photographs_are_turned_as_their_camera_says(tmp_path):
    """The picture of a file; one that was opened already is as its owner left it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    path = tmp_path / "photograph.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert opened(path).size == (4, 8)
    assert opened(Image.new("L", (8, 4))).mode == "RGB"
    with pytest.raises(UserError, match="there is no picture"):
        opened(tmp_path / "other.jpg")
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="as an image"):
        opened(path)
