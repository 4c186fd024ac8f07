"""Pictures of a user's own."""

import pytest
from PIL import Image

from common.config import UserError
from common.data.image.upright import upright
from projects.rtd.composed_sets import open_rgb


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("L", (48, 24)).save(tmp_path / "phone.jpg", exif=exif)
    for picture in (
        tmp_path / "phone.jpg",
        str(tmp_path / "phone.jpg"),
        Image.open(tmp_path / "phone.jpg"),
    ):
        actual = upright(picture)
        assert (actual.size, actual.mode) == ((24, 48), "RGB")


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    for name in ("notes.jpg", "nowhere.png"):
        with pytest.raises(UserError, match=name):
            upright(tmp_path / name)


@pytest.mark.parametrize("read", [upright, open_rgb])
def test_a_picture_of_too_many_pixels_is_named(tmp_path, monkeypatch, read):
    Image.new("L", (48, 24)).save(tmp_path / "map.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"map\.png as an image: .*decompression bomb"):
        read(tmp_path / "map.png")
