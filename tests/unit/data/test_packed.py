import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.data.packed import PackedAudio, PackedImages, write_packed


def png(color, size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def packed(tmp_path):
    items = [png((i, 2 * i, 0)) for i in range(20)]
    items[7] = b"not an image"
    write_packed(tmp_path / "images.npz", items, labels=np.arange(20))
    return tmp_path / "images.npz"


def test_items_decode_and_a_corrupt_one_is_skipped_and_logged(packed, caplog):
    images = PackedImages(packed, max_corrupt=0.05)
    assert len(images) == 20
    assert images[3].getpixel((0, 0)) == (3, 6, 0)
    decoded = images.decode(8)
    assert decoded.indices.tolist() == [i for i in range(20) if i != 7]
    assert decoded.images[7, :, 0, 0].tolist() == [8, 16, 0]
    assert decoded.images.dtype == torch.uint8
    assert "item 7" in caplog.text
    assert images.array("labels")[decoded.indices].tolist() == decoded.indices.tolist()


def test_a_member_that_is_no_array_does_not_count_as_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("data.npy", b"")
        archive.writestr("offsets.npx", b"")
    with pytest.raises(UserError, match="needs data and offsets"):
        PackedImages(tmp_path / "x.npz", max_corrupt=1.0)


def test_too_many_corrupt_items_stop(packed):
    with pytest.raises(UserError, match="1 of 20 samples are corrupt"):
        PackedImages(packed, max_corrupt=0.01).decode(8)
    assert len(PackedImages(packed, max_corrupt=0.0).decode(8, np.arange(5)).indices) == 5


def test_decode_resizes_shorter_side_and_crops_the_centre(tmp_path):
    write_packed(tmp_path / "w.npz", [png((9, 9, 9), size=(32, 16))])
    assert PackedImages(tmp_path / "w.npz").decode(8).images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_audio_from_stored_and_compressed_files(tmp_path, save):
    data = np.arange(-5, 5, dtype=np.int16) * 1000
    save(tmp_path / "a.npz", data=data, offsets=np.array([0, 4, 10]), sample_rate=np.array(8000))
    audio = pickle.loads(pickle.dumps(PackedAudio(tmp_path / "a.npz")))
    assert audio.sample_rate == 8000
    assert torch.equal(audio[1], torch.from_numpy(data[4:].astype(np.float32) / 32768))
    assert isinstance(audio.array("data"), np.memmap) == (save is np.savez)
    with pytest.raises(IndexError):
        audio[2]


def test_what_is_not_a_packed_file_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a readable"):
        PackedImages(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", pixels=np.zeros(3))
    with pytest.raises(UserError, match="needs data and offsets"):
        PackedImages(tmp_path / "y.npz")
    with pytest.raises(UserError, match="not a readable"):
        PackedImages(tmp_path / "absent.npz")


def test_a_damaged_array_is_named(packed):
    raw = bytearray(packed.read_bytes())
    start = raw.index(b"data.npy") + 60
    raw[start : start + 40] = bytes(40)
    packed.write_bytes(raw)
    with pytest.raises(UserError, match="array 'data' is damaged"):
        PackedImages(packed)[0]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_objects_are_refused(tmp_path, save):
    """Mapped into memory, their pickled bytes were taken for addresses."""
    save(tmp_path / "o.npz", data=np.array([b"a", None], dtype=object), offsets=np.array([0, 1]))
    with pytest.raises(UserError, match="array 'data' is damaged: Object arrays"):
        PackedImages(tmp_path / "o.npz").array("data")
