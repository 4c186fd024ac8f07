"""Videos as frames at points in time, and their division into shots.

A video is a folder of pictures whose names sort in time (``fps`` of them a second), or a file that
PyAV reads.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from common.config import UserError
from common.damage import reading
from common.data.decode import decode_image

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


class FrameFolder:
    """A folder of pictures as a video.

    Args:
        folder: pictures whose names sort in time.
        fps: pictures a second.

    Attributes:
        seconds: length.

    Raises:
        UserError: no picture in it.
    """

    def __init__(self, folder: str | Path, fps: float = 1.0) -> None:
        place = Path(folder)
        files = place.iterdir() if place.is_dir() else ()
        self.files = sorted(f for f in files if f.suffix.lower() in PICTURES)
        if not self.files:
            raise UserError(
                f"{folder} is not a folder of pictures (a video as frames, {', '.join(PICTURES)})"
            )
        self.fps, self.seconds = fps, len(self.files) / fps

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """Pictures at points in time, in seconds; the last one beyond the end."""
        rows = [min(len(self.files) - 1, max(0, int(t * self.fps))) for t in times]
        return [decode_image(self.files[row]).convert("RGB") for row in rows]


class VideoFile:
    """A video file, or its bytes, by PyAV.

    It is decoded once for the times of its frames and again for the pictures that are asked for:
    all of them would be gigabytes a minute.

    Attributes:
        times: of the frames, in seconds.
        seconds: time of the last frame.

    Raises:
        UserError: no PyAV.
        ValueError: content that is not a video, or one without frames.
    """

    def __init__(self, content: str | Path | bytes) -> None:
        self.content = content
        with self._decoded() as frames:
            self.times = [float(frame.time or 0) for frame in frames]
        if not self.times:
            raise ValueError("a video without frames")
        self.seconds = self.times[-1]

    def frames(self, times: Sequence[float]) -> list[Image.Image]:
        """The last picture at or before each point in time.

        The video is decoded from its beginning to the last of them, so ask for many at once.

        Raises:
            ValueError: content that cannot be read any more.
        """
        rows = np.maximum(np.searchsorted(self.times, times, side="right") - 1, 0).tolist()
        numbers, last, pictures = {*rows}, max(rows, default=-1), dict[int, Image.Image]()
        with self._decoded() as frames:
            for row, frame in enumerate(islice(frames, last + 1)):
                if row in numbers:
                    pictures[row] = frame.to_image()
        if rows and last not in pictures:
            raise ValueError(f"no readable video: it ends before frame {last}")
        return [pictures[row] for row in rows]

    @contextmanager
    def _decoded(self) -> Iterator[Iterator[Any]]:
        """Frames from the beginning on."""
        try:
            import av
        except ImportError as error:
            raise UserError(
                "video files need PyAV (pip install av); without it give folders of frames"
            ) from error
        content = self.content
        source: Any = io.BytesIO(content) if isinstance(content, bytes) else str(content)
        try:
            with av.open(source) as container:
                yield iter(container.decode(container.streams.video[0]))
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise ValueError(f"no readable video: {error}") from error


def open_video(path: str | Path, fps: float = 1.0) -> FrameFolder | VideoFile:
    """A folder of frames, or a file.

    Raises:
        UserError: a folder without pictures, or a file that is not a video.
    """
    if Path(path).is_dir():
        return FrameFolder(path, fps)
    with reading(path, "video"):
        return VideoFile(path)


def frame_times(start: float, end: float, count: int) -> list[float]:
    """The middles of `count` equal parts of a clip.

    >>> frame_times(0, 6, 3)
    [1.0, 3.0, 5.0]
    """
    return [start + (i + 0.5) * (end - start) / count for i in range(count)]


def segment_shots(features: ArrayLike, most: int, penalty: float = 1.0) -> list[int]:
    """Kernel temporal segmentation: the first frame of every shot.

        min over m, boundaries:  sum of squared distances to the mean of the own shot / n
                                 + C m (log(n / m) + 1) / n

    with features of unit length, n frames and m boundaries.

    Source: Potapov et al. 2014, "Category-specific video summarization", section 4, equations 2 to
    4 (kernel temporal segmentation; linear kernel here).

    Args:
        features: (n, D) of frames in order.
        most: largest number of shots.
        penalty: C.

    Returns:
        Ascending frame numbers; the first one is 0.

    >>> segment_shots([[1, 0], [1, 0], [0, 1], [0, 1]], most=3, penalty=0.1)
    [0, 2]
    """
    x: NDArray[np.float64] = np.asarray(features, dtype=np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    n, most = len(x), max(1, min(most, len(x)))
    sums = np.concatenate([np.zeros((1, x.shape[1])), x.cumsum(0)])
    squares = np.concatenate([[0.0], (x**2).sum(1).cumsum()])

    def scatter(ends: int) -> NDArray[np.float64]:
        """Of the frames i to `ends` (exclusive) about their mean, for all i."""
        starts = np.arange(ends)
        total = sums[ends] - sums[:ends]
        costs_of_starts: NDArray[np.float64] = (
            squares[ends] - squares[:ends] - (total**2).sum(1) / (ends - starts)
        )
        return costs_of_starts

    costs = np.full((most + 1, n + 1), math.inf)  # [shots, frames]
    cuts = np.zeros((most + 1, n + 1), dtype=np.int64)
    costs[0, 0] = 0.0
    for end in range(1, n + 1):
        last_cost = scatter(end)
        for shots in range(1, min(most, end) + 1):
            total = costs[shots - 1, :end] + last_cost
            cuts[shots, end] = total.argmin()
            costs[shots, end] = total.min()
    values = []
    for shots in range(1, most + 1):
        cut = shots - 1
        values.append(costs[shots, n] / n + penalty * cut * (math.log(n / max(1, cut)) + 1) / n)
    end, starts = n, []
    for shots in range(int(np.argmin(values)) + 1, 0, -1):
        end = int(cuts[shots, end])
        starts.append(end)
    return starts[::-1]
