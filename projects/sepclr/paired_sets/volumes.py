"""Two folders of 3-D volumes (NumPy archives or NIfTI-1 files) as background and target set."""

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from common.config import UserError
from common.damage import ERRORS
from common.data.corrupt import CorruptCounter
from common.data.lookup import require
from common.data.samplers import Rng
from common.data.tables import read_csv
from projects.sepclr.paired_sets.pairs import SetPair

SUFFIXES = (".npz", ".nii", ".nii.gz")
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
_UNKNOWN = ("", "n/a")  # of a participant


def read_volume(path: Path) -> Tensor:
    """One volume.

    Args:
        path: ``.npz`` with one array, or a NIfTI-1 file (one file, may be gzipped).

    Returns:
        (H, W, D) float32.

    Raises:
        ValueError: not a volume in one of these formats, or one with voxels that are no finite
            numbers.
    """
    if path.name.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            if len(names) != 1:
                raise ValueError(f"needs one array, has {names}")
            array = file[names[0]]
    else:
        array = _read_nifti(
            gzip.decompress(data) if (data := path.read_bytes())[:2] == b"\x1f\x8b" else data
        )
    array = array.reshape([n for i, n in enumerate(array.shape) if i < 3 or n > 1])
    if array.ndim != 3:
        raise ValueError(f"a volume has three dimensions, this one {array.shape}")
    volume = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if not bool(volume.isfinite().all()):  # one of them would take the whole cube's mean with it
        raise ValueError("has voxels that are no finite numbers: replace them, as by 0")
    return volume


def _read_nifti(data: bytes) -> np.ndarray:
    """Array of a NIfTI-1 file with its scaling. Source: the NIfTI-1 header, nifti1.h (2003)."""
    if len(data) < 352 or data[344:347] != b"n+1":
        raise ValueError("not a single-file NIfTI-1 image")
    order = "<" if struct.unpack("<i", data[:4])[0] == 348 else ">"
    dims = struct.unpack(order + "8h", data[40:56])
    code = struct.unpack(order + "h", data[70:72])[0]
    offset, slope, shift = struct.unpack(order + "3f", data[108:120])
    if code not in _NIFTI_TYPES:
        raise ValueError(f"NIfTI data type {code} is not supported")
    shape = dims[1 : dims[0] + 1]
    values = np.frombuffer(data, order + _NIFTI_TYPES[code], math.prod(shape), int(offset))
    array = values.reshape(shape, order="F").astype(np.float32)
    # a slope of 0, and NaN as nibabel leaves it in a header, means no scaling
    return array * slope + shift if slope != 0 and math.isfinite(slope) else array


@dataclass(frozen=True)
class VolumeTransform:
    """To a cube of values with mean 0 and deviation 1; in training a crop, mirroring and noise.

    Attributes:
        size: edge of the cube in voxels.
        scale: range of the edge of the crop as a fraction of the volume; None: no randomness.
        flip_prob: probability of mirroring the first axis (left and right).
        noise: standard deviation of Gaussian noise.
    """

    size: int
    scale: tuple[float, float] | None = None
    flip_prob: float = 0.0
    noise: float = 0.0

    def one(self, volume: Tensor, rng: Rng | None = None) -> Tensor:
        """(H, W, D) float32 -> (1, size, size, size) float32.

        Raises:
            ValueError: a random transform without a generator.
        """
        if self.scale is not None:
            if rng is None:
                raise ValueError("a training transform needs a generator")
            volume = _crop(volume, rng.uniform(*self.scale), rng)
        cube = interpolate(
            volume[None, None], (self.size,) * 3, mode="trilinear", align_corners=False
        )[0]
        cube = (cube - cube.mean()) / cube.std().clamp(min=1e-6)
        if self.scale is not None and rng is not None:
            cube = cube.flip(1) if rng.random() < self.flip_prob else cube
            cube = cube + self.noise * torch.from_numpy(
                rng.standard_normal(tuple(cube.shape), dtype=np.float32)
            )
        return cube


def _crop(volume: Tensor, fraction: float, rng: Rng) -> Tensor:
    sides = [max(1, round(fraction * n)) for n in volume.shape]
    starts = [int(rng.integers(n - side + 1)) for n, side in zip(volume.shape, sides, strict=True)]
    a, b, c = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return volume[a, b, c]


class VolumeFiles:
    """Volumes by index, an `ImageSource` of (K, 1, S, S, S).

    Args:
        paths: N files.
        transform: applied to each volume.
        max_corrupt: largest tolerated fraction of unreadable files, in [0, 1].
    """

    def __init__(
        self, paths: Sequence[Path], transform: VolumeTransform, *, max_corrupt: float = 0.05
    ) -> None:
        self.paths, self.transform = list(paths), transform
        self.counter = CorruptCounter("volumes", max_fraction=max_corrupt)

    def __len__(self) -> int:
        return len(self.paths)

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """See `ImageSource`.

        Raises:
            UserError: none of the files can be read, or too many so far.
        """
        cubes, kept = [], []
        for position, index in enumerate(indices):
            path = self.paths[index]
            try:
                volume = read_volume(path)
            except ERRORS as error:
                self.counter.bad(str(path), error)
                continue
            self.counter.good()
            cubes.append(self.transform.one(volume, rngs[position] if rngs else None))
            kept.append(position)
        if not cubes:
            raise UserError(f"no volume of a batch of {len(indices)} can be read; last: {path}")
        return torch.stack(cubes), kept


@dataclass(frozen=True)
class VolumeStore:
    """A `SampleStore` of volume files.

    Attributes:
        paths: N files.
    """

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, transform: VolumeTransform) -> VolumeFiles:
        """See `SampleStore`."""
        return VolumeFiles(self.paths, transform)

    def picture(self, index: int) -> Image.Image:
        """The middle slice."""
        volume = read_volume(self.paths[index])
        middle = volume[:, :, volume.shape[2] // 2]
        low, high = middle.min(), middle.max()
        grey = (255 * (middle - low) / (high - low).clamp(min=1e-6)).byte()
        return Image.fromarray(grey.numpy()).resize((96, 96))

    def rows(self, index: Tensor) -> "VolumeStore":
        """See `SampleStore`."""
        return VolumeStore([self.paths[i] for i in index.tolist()])


def volume_folders(folder: Path) -> SetPair:
    """Volumes below ``background/`` and ``target/``.

    ``participants.tsv`` alongside them, if there is one, holds ``participant_id`` (the file name
    without suffix), ``age`` and ``sex`` (M or F; n/a where unknown).

    Args:
        folder: holds the two folders.

    Raises:
        UserError: a folder or a participant is missing, or an age or a sex is neither given as
            above nor unknown.
    """
    require(
        folder,
        what="volumes",
        layout="{background,target}/*.{npz,nii,nii.gz} [participants.tsv]",
        source="your own study",
        size="any size",
    )
    parts = [
        sorted(p for p in (folder / name).glob("*") if p.name.endswith(SUFFIXES))
        for name in ("background", "target")
    ]
    paths = parts[0] + parts[1]
    target = torch.tensor([False] * len(parts[0]) + [True] * len(parts[1]))
    return SetPair(
        VolumeStore(paths), target, {}, _participants(folder, paths), {"sex": ["F", "M"]}
    )


def _participants(folder: Path, paths: Sequence[Path]) -> dict[str, Tensor]:
    table = folder / "participants.tsv"
    if not table.is_file():
        return {}
    rows = {r["participant_id"]: r for r in read_csv(table, ["participant_id", "age", "sex"])}
    names = [path.name.split(".")[0] for path in paths]
    missing = [name for name in names if name not in rows]
    if missing:
        raise UserError(f"{table} has no row for {', '.join(missing[:3])}: add it")
    sexes = [_sex(table, name, rows[name]["sex"]) for name in names]
    ages = [_age(table, name, rows[name]["age"]) for name in names]
    return {"age": torch.tensor(ages, dtype=torch.float32), "sex": torch.tensor(sexes)}


def _sex(table: Path, name: str, value: str) -> int:
    if value in _UNKNOWN:
        return -1
    if value not in ("F", "M"):
        raise UserError(f"{table}, {name}: sex '{value}' has to be M, F or n/a")
    return ("F", "M").index(value)


def _age(table: Path, name: str, value: str) -> float:
    if value in _UNKNOWN:
        return math.nan
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{table}, {name}: age '{value}' has to be a number or n/a") from None
