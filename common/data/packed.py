"""Packed ``.npz`` sets: many small images or clips in one file.

``data`` holds the concatenated items and ``offsets`` (items + 1,) their borders; images are encoded
(JPEG or PNG) bytes, audio is int16 mono with its rate in ``sample_rate``. Other arrays run
parallel to the items. Arrays are read at first use; uncompressed ones are memory-mapped.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.damage import remedy
from common.data.corrupt import CorruptCounter
from common.data.decode import decode_image
from common.files import replacing


class Decoded(NamedTuple):
    """Decoded images of a packed set; corrupt items are left out."""

    images: Tensor  # (K, 3, size, size) uint8
    indices: Tensor  # (K,) int64, positions in the packed file, increasing


class Packed:
    """Items of a packed file by index.

    Args:
        path: the ``.npz`` file.

    Raises:
        UserError: not a readable npz file, or without ``data`` and ``offsets``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._arrays: dict[str, np.ndarray] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = [Path(name) for name in archive.namelist()]
                self.names = [member.stem for member in members if member.suffix == ".npy"]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.path} is not a readable .npz file: {error}; {remedy(self.path)}"
            ) from error
        if not {"data", "offsets"} <= set(self.names):
            raise UserError(
                f"{self.path} is not a packed set: it holds {self.names}, needs data and offsets"
            )

    def array(self, name: str) -> np.ndarray:
        """One array of the file by name, read at first use.

        Raises:
            UserError: the file has no such array, or it is damaged.
        """
        if name not in self._arrays:
            if name not in self.names:
                raise UserError(f"{self.path} has no array '{name}'; it holds {self.names}")
            try:
                self._arrays[name] = _read_member(self.path, name)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise UserError(
                    f"{self.path}: array '{name}' is damaged: {error}; {remedy(self.path)}"
                ) from error
        return self._arrays[name]

    def __len__(self) -> int:
        return len(self.array("offsets")) - 1

    def item(self, index: int) -> np.ndarray:
        """Raw item: uint8 bytes of an encoded image, or int16 samples; a view, not a copy."""
        offsets = self.array("offsets")
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a packed set of {len(self)}")
        return self.array("data")[offsets[index] : offsets[index + 1]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}  # loader processes read for themselves


class PackedImages(Packed):
    """Packed encoded images.

    Args:
        path: the ``.npz`` file.
        max_corrupt: largest tolerated fraction of undecodable images, in [0, 1].
    """

    def __init__(self, path: str | Path, *, max_corrupt: float = 0.01) -> None:
        super().__init__(path)
        self.max_corrupt = max_corrupt

    def __getitem__(self, index: int) -> Image.Image:
        """Decoded RGB image.

        Raises:
            ValueError: the item is not an image.
        """
        return decode_image(self.item(index).tobytes()).convert("RGB")

    def decode(self, size: int, indices: Tensor | np.ndarray | None = None) -> Decoded:
        """Decode once into memory: shorter side resized to `size` (bilinear), centre cropped.

        Args:
            size: height and width of the result in pixels.
            indices: (N,) integer items to decode, increasing; None: all.

        Returns:
            Images and the indices that they belong to; corrupt items are skipped and logged.

        Raises:
            UserError: more than `max_corrupt` of the items cannot be decoded.
        """
        counter = CorruptCounter(str(self.path), max_fraction=self.max_corrupt)
        kept, images = [], []
        for index in range(len(self)) if indices is None else [int(i) for i in indices]:
            try:
                image = self[index]
            except ValueError as error:
                counter.bad(f"item {index}", error)
                continue
            counter.good()
            kept.append(index)
            if image.size != (size, size):
                image = F.center_crop(F.resize(image, [size], antialias=True), [size, size])
            images.append(F.pil_to_tensor(image))
        counter.finish()
        if not images:
            return Decoded(torch.empty(0, 3, size, size, dtype=torch.uint8), torch.empty(0).long())
        return Decoded(torch.stack(images), torch.tensor(kept))


class PackedAudio(Packed):
    """Packed int16 mono clips; `sample_rate` in Hz."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return int(self.array("sample_rate"))

    def __getitem__(self, index: int) -> Tensor:
        """Waveform (T,) float32 in [-1, 1)."""
        return torch.from_numpy(self.item(index).astype(np.float32) / 32768.0)


def write_packed(path: str | Path, items: list[bytes], **parallel: Any) -> None:
    """Write encoded images as a packed file.

    Args:
        path: target ``.npz``.
        items: encoded images.
        parallel: further arrays; those parallel to the items have one row an item.
    """
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int64)
    data = np.frombuffer(b"".join(items), dtype=np.uint8)
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, data=data, offsets=offsets, **parallel)


def _read_member(path: Path, name: str) -> np.ndarray:
    """One array of an npz: a memory map if it is stored, else read."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, fortran, dtype = _read_header(file)
            header = file.tell()
    mapped = info.compress_type == zipfile.ZIP_STORED and 0 not in shape and shape != ()
    if not mapped or dtype.hasobject:  # objects are pickled: no memory to map, and refused by numpy
        with np.load(path, allow_pickle=False) as npz:
            return np.asarray(npz[name])
    with open(path, "rb") as raw:  # local file header: 30 bytes, then name and extra field
        raw.seek(info.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), dtype="<u2")
    start = info.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "r", start, shape, order="F" if fortran else "C")


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    form: Any = np.lib.format  # without annotations
    read = (
        form.read_array_header_1_0
        if form.read_magic(file) == (1, 0)
        else form.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype
