"""What can't be read of a user's files is named, and refused from a share on."""

import pytest
from PIL import Image

from common.config import UserError
from common.data.image.class_folders import readable_classes
from common.data.own_files import readable


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / kind / f"{i}.png" for kind in ("cat", "dog") for i in range(20)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return paths


def test_a_few_bad_files_are_left_out_counted_and_named(images):
    lines = []
    assert readable(images, lines.append) == list(range(40))
    assert lines == []
    images[3].write_bytes(b"no image")
    images[30].unlink()
    assert readable(images, lines.append) == [i for i in range(40) if i not in (3, 30)]
    (line,) = lines
    assert line.startswith("2 of 40 images cannot be read and are left out: ")
    assert f"{images[3]} (UnidentifiedImageError" in line
    assert f"{images[30]} (no such file)" in line


def test_too_many_are_refused(images):
    for path in images[:3]:
        path.unlink()
    with pytest.raises(UserError, match=r"3 of 40 clips cannot be read, more than 5%.*0\.png \("):
        readable(images, print, what="clips")


def test_class_folders_without_the_bad_ones(images, tmp_path):
    images[0].write_bytes(b"no image")
    (tmp_path / "cat" / "note.txt").write_text("x", encoding="utf-8")
    lines = []
    bank, test, skipped, bad = readable_classes(tmp_path, lines.append)
    assert (len(bank.paths) + len(test.paths), skipped, bad, len(lines)) == (39, 1, 1, 1)
    for part in (bank, test):
        names = [part.class_names[label] for label in part.labels.tolist()]
        assert [path.split("/")[0] for path in part.paths] == names
        assert "cat/0.png" not in part.paths
