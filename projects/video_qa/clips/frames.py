"""Features of the frames of clips: in memory, a file a clip, or one HDF5 file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.damage import reading
from common.data.corrupt import CorruptCounter
from projects.video_qa.clips.clips import frame_times


class Frames(NamedTuple):
    """Frames of a clip.

    Attributes:
        features: (F, D) float32.
        times: (F,) seconds at which they are shown.
    """

    features: Tensor
    times: np.ndarray


class FrameSource(Protocol):
    """Frames by the name of a clip."""

    dim: int

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that cannot be read, none."""
        ...


class FramesInMemory:
    """Frames that are available.

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
    """A file ``<clip>.safetensors`` a clip: ``features`` (F, D), optional ``times`` (F,) in s.

    A clip whose file is absent or damaged has no frames; it is counted, and too many of them stop
    the run.

    Args:
        folder: of the files.
        fps: frames a second where a file has no times.
        dim: D.
        max_frames: of a clip; of longer ones as many are kept, evenly chosen, each with its own
            time.
        max_corrupt: largest tolerated share of clips without a readable file, in [0, 1].

    Raises:
        UserError: no such folder.
    """

    def __init__(
        self,
        folder: Path,
        fps: float,
        dim: int,
        *,
        max_frames: int = 300,
        max_corrupt: float = 0.05,
    ) -> None:
        if not folder.is_dir():
            raise UserError(
                f"the folder of frame features {folder} does not exist: write it with TASK=features"
            )
        self.folder, self.fps, self.dim, self.max_frames = folder, fps, dim, max_frames
        self.counter = CorruptCounter(str(folder), max_fraction=max_corrupt)

    def __contains__(self, clip: str) -> bool:
        return (self.folder / f"{clip}.safetensors").is_file()

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that cannot be read, none."""
        from common.encoders.state_dict import read_state_dict

        path = self.folder / f"{clip}.safetensors"
        try:
            stored = read_state_dict(path)
            features = stored["features"].float()
            _check_shape(str(path), features.shape, self.dim)
        except (UserError, KeyError) as error:
            self.counter.bad(str(path), error)
            return no_frames(self.dim)
        self.counter.good()
        times = (
            stored["times"].numpy() if "times" in stored else frame_times(len(features), self.fps)
        )
        return _at_most(features, np.asarray(times), self.max_frames)


class FeatureTable:
    """An HDF5 file with a data set (F, D) a clip, as released with TVQA.

    Every process opens the file for itself: an open one can neither be pickled nor be shared with
    forked processes.

    A clip that is absent or of another width has no frames; it is counted, and too many of them
    stop the run.

    Args:
        path: the file.
        fps: frames a second; a data set does not tell whether its frames were thinned out before,
            and is read as if not.
        dim: D.
        max_frames: of a clip; of longer ones as many are kept, evenly chosen, each with its own
            time.
        max_corrupt: largest tolerated share of clips without a readable data set, in [0, 1].

    Raises:
        UserError: no such file, or the library h5py is missing.
    """

    def __init__(
        self, path: Path, fps: float, dim: int, *, max_frames: int = 300, max_corrupt: float = 0.05
    ) -> None:
        try:
            import h5py
        except ImportError as error:
            raise UserError(
                f"{path} is read with h5py, which is not installed: pip install h5py, or write a"
                " folder of features with TASK=features"
            ) from error
        with reading(path, "HDF5 file of frame features"):
            h5py.File(path, "r").close()
        self.path = path
        self._opened: tuple[int, Any] | None = None  # number of the process and its file
        self.fps, self.dim, self.max_frames = fps, dim, max_frames
        self.counter = CorruptCounter(str(path), max_fraction=max_corrupt)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def file(self) -> Any:
        """The open file of this process."""
        import h5py

        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), h5py.File(self.path, "r")
        return self._opened[1]

    def __contains__(self, clip: str) -> bool:
        return clip in self.file

    def __call__(self, clip: str) -> Frames:
        """Frames of a clip; of one that cannot be read, none."""
        try:
            file = self.file
            if clip not in file:
                raise UserError("the file has no such data set")
            stored = file[clip]
            _check_shape(clip, stored.shape, self.dim)
        except UserError as error:
            self.counter.bad(clip, error)
            return no_frames(self.dim)
        self.counter.good()
        features = torch.from_numpy(np.asarray(stored[:], np.float32))
        return _at_most(features, frame_times(len(features), self.fps), self.max_frames)


def no_frames(dim: int) -> Frames:
    """A clip of which nothing is seen."""
    return Frames(torch.zeros(0, dim), np.zeros(0))


def _check_shape(where: str, shape: Sequence[int], dim: int) -> None:
    if len(shape) != 2 or shape[1] != dim:
        raise UserError(f"{where}: features {tuple(shape)}, expected (F, {dim})")


def _at_most(features: Tensor, times: np.ndarray, most: int) -> Frames:
    if len(features) <= most:
        return Frames(features, times)
    kept = np.linspace(0, len(features) - 1, most).round().astype(int)
    return Frames(features[torch.from_numpy(kept)], times[kept])
