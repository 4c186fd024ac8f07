"""A user's images in class folders: bank, test images, and what is left out."""

import pytest
from PIL import Image

from common.config import UserError
from common.data.image.class_folders import class_counts, class_folders


def fill(folder, count):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"{i}.png")


def test_each_class_is_halved_and_nothing_is_lost(tmp_path):
    fill(tmp_path / "cat", 6)
    fill(tmp_path / "dog" / "brown", 5)  # folders within a class
    fill(tmp_path / "one", 1)
    (tmp_path / "cat" / "notes.txt").write_text("no image", encoding="utf-8")
    bank, test, skipped = class_folders(tmp_path)
    assert bank.class_names == test.class_names == ["cat", "dog"]
    assert class_counts(bank) == {"cat": 3, "dog": 2}
    assert class_counts(test) == {"cat": 3, "dog": 3}
    assert not {*bank.paths} & {*test.paths}
    assert skipped == 2  # the notes and the class of one image
    assert class_folders(tmp_path)[0].paths == bank.paths
    assert bank.path(0).is_file()


def test_official_parts_are_kept(tmp_path):
    for part, count in (("train", 4), ("val", 3)):
        for name in ("cat", "dog"):
            fill(tmp_path / part / name, count)
    fill(tmp_path / "val" / "fox", 2)  # in one part alone
    bank, test, skipped = class_folders(tmp_path)
    assert class_counts(bank) == {"cat": 4, "dog": 4}
    assert class_counts(test) == {"cat": 3, "dog": 3}
    assert skipped == 2
    assert all(path.startswith("train/") for path in bank.paths)


def test_fewer_than_two_classes_are_refused(tmp_path):
    fill(tmp_path / "cat", 6)
    with pytest.raises(UserError, match="has 1 classes with two images or more"):
        class_folders(tmp_path)
