"""Features of the frames of clips: in memory, a file a clip, or one HDF5 file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.damage import reading
from common.data.corrupt import CorruptCounter
from common.data.video.clips import frame_times


class Frames(NamedTuple):
    """Frames of a clip.

    Attributes:
        features: (F, D) float32.
        times: (F,) seconds at which they are shown.
        cut: whether the clip goes on after the last of them.
    """

    features: Tensor
    times: np.ndarray
    cut: bool = False


class FrameSource(Protocol):
    """Frames by the name of a clip."""

    dim: int

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that cannot be read, none."""
        ...


class FramesInMemory:
    """Frames that are at hand.

    Args:
        clips: frames by name.
        dim: D.
    """

    def __init__(self, clips: Mapping[str, Frames], dim: int) -> None:
        self.clips, self.dim = clips, dim

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip.

        Raises:
            UserError: there is no such clip.
        """
        if clip not in self.clips:
            raise UserError(f"there are no frames of the clip '{clip}'")
        return self.clips[clip]


class FeatureFiles:
    """A file ``<clip>.safetensors`` a clip: ``features`` (F, D) and perhaps ``times`` (F,) in seconds.

    A clip whose file is absent or damaged has no frames; it is counted, and too many of them stop the run.

    Args:
        folder: of the files.
        fps: frames a second where a file has no times.
        dim: D.
        max_frames: of a clip; longer ones are cut.
        max_corrupt: largest tolerated share of clips without a readable file, in [0, 1].

    Raises:
        UserError: no such folder.
    """

    def __init__(
        self, folder: Path, fps: float, dim: int, *, max_frames: int = 300, max_corrupt: float = 0.05
    ) -> None:  # fmt: skip
        if not folder.is_dir():
            raise UserError(
                f"the folder of frame features {folder} does not exist: write it with TASK=features"
            )
        self.folder, self.fps, self.dim, self.max_frames = folder, fps, dim, max_frames
        self.counter = CorruptCounter(str(folder), max_fraction=max_corrupt)

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that cannot be read, none."""
        from common.encoders.state_dict import read_state_dict

        path = self.folder / f"{clip}.safetensors"
        try:
            found = read_state_dict(path)
            features = found["features"].float()
            if features.ndim != 2 or features.shape[1] != self.dim:
                raise UserError(f"{path}: features {tuple(features.shape)}, expected (F, {self.dim})")  # fmt: skip
        except (UserError, KeyError) as error:
            self.counter.bad(str(path), error)
            return no_frames(self.dim)
        self.counter.good()
        times = found["times"].numpy() if "times" in found else frame_times(len(features), self.fps)
        most = self.max_frames
        return Frames(features[:most], np.asarray(times)[:most], len(features) > most)


class FeatureTable:
    """An HDF5 file with a data set (F, D) a clip, as released with TVQA.

    Args:
        path: the file.
        fps: frames a second.
        dim: D.
        max_frames: of a clip; longer ones are cut.

    Raises:
        UserError: no such file, or the library h5py is missing.
    """

    def __init__(self, path: Path, fps: float, dim: int, *, max_frames: int = 300) -> None:
        try:
            import h5py
        except ImportError as error:
            raise UserError(
                f"{path} is read with h5py, which is not installed: pip install h5py, or write a folder of "
                "features with TASK=features"
            ) from error
        with reading(path, "HDF5 file of frame features"):
            self.file: Any = h5py.File(path, "r")
        self.fps, self.dim, self.max_frames = fps, dim, max_frames

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that is not in the file, none."""
        if clip not in self.file:
            return no_frames(self.dim)
        stored = self.file[clip]
        features = torch.from_numpy(np.asarray(stored[: self.max_frames], np.float32))
        cut = len(stored) > len(features)
        return Frames(features, frame_times(len(features), self.fps), cut)


def no_frames(dim: int) -> Frames:
    """A clip of which nothing is seen."""
    return Frames(torch.zeros(0, dim), np.zeros(0))
