"""Recorded speech: reading waveforms, their lengths without reading them, and padded batches."""

import importlib.util
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.config import UserError, first_line


def load_waveform(path: str | Path, sample_rate: int) -> Tensor:
    """Samples of a WAV or FLAC file as one channel.

    WAV is read by scipy; FLAC by soundfile or torchcodec, whichever is installed.

    Args:
        path: the file; channels are averaged.
        sample_rate: in Hz; other rates are resampled (torchaudio's windowed sinc).

    Returns:
        (T,) float32, integer formats scaled to [-1, 1).

    Raises:
        UserError: FLAC without a library that decodes it.
        OSError: the file is missing or damaged.
    """
    path = Path(path)
    samples, rate = _read_wav(path) if path.suffix.lower() == ".wav" else _read_flac(path)
    waveform = torch.from_numpy(samples)
    if waveform.ndim == 2:
        waveform = waveform.mean(1)
    if rate != sample_rate:
        from torchaudio.functional import resample

        waveform = resample(waveform, rate, sample_rate)
    return waveform


def num_frames(path: str | Path) -> tuple[int, int]:
    """Number of samples per channel and rate in Hz, from the header of a WAV or FLAC file.

    A WAV file whose header gives more samples than the file has, as of a stream, is read.

    Raises:
        OSError: not such a file.
    """
    path = Path(path)
    if path.suffix.lower() == ".wav":
        try:
            with wave.open(str(path), "rb") as file:
                count, rate = file.getnframes(), file.getframerate()
                if (
                    rate
                    and count * file.getnchannels() * file.getsampwidth() <= path.stat().st_size
                ):
                    return count, rate
        except (wave.Error, EOFError):  # no integer samples, or damaged
            pass
        samples, rate = _read_wav(path)
        return len(samples), rate
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26 or head[:4] != b"fLaC":
        raise OSError(f"{path} is not a FLAC file")
    bits = int.from_bytes(head[18:26], "big")  # 20 rate, 3 channels, 5 depth, 36 samples
    return bits & (2**36 - 1), bits >> 44


def pad_waveforms(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Zero-padded batch.

    Args:
        waveforms: B tensors (T_i,).

    Returns:
        (B, max T_i) float32 and lengths (B,) int64.
    """
    lengths = torch.tensor([len(w) for w in waveforms])
    return pad_sequence(list(waveforms), batch_first=True), lengths


def _read_wav(path: Path) -> tuple[np.ndarray, int]:
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(path)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of many kinds, by where in the header the damage is
        raise OSError(f"{path} is not a readable WAV file: {first_line(error)}") from error
    if samples.size == 0 or rate <= 0:
        raise OSError(f"{path} has no samples, or no rate of them")
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128, rate
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1), rate
    return samples.astype(np.float32), rate


def decoder() -> str | None:
    """The installed package that reads FLAC and MP3; None without one."""
    names = ("soundfile", "torchcodec")
    return next((name for name in names if importlib.util.find_spec(name) is not None), None)


def _read_flac(path: Path) -> tuple[np.ndarray, int]:
    if not path.is_file():
        raise OSError(f"{path} does not exist")
    if decoder() == "soundfile":
        import soundfile

        try:
            samples, rate = soundfile.read(path, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise OSError(f"{path} is not a readable audio file: {error}") from error
        return samples, int(rate)
    if decoder() == "torchcodec":
        import torchaudio

        try:
            tensor, rate = torchaudio.load(path)
        except RuntimeError as error:
            raise OSError(f"{path} is not a readable audio file: {error}") from error
        return tensor.mean(0).numpy(), int(rate)
    raise UserError(
        f"{path}: reading {path.suffix} needs a decoder: `pip install soundfile` (or torchcodec) "
        "into the environment, or convert the files to .wav next to the originals"
    )
