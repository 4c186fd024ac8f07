"""Waveforms: reading, headers, resampling, padding, errors."""

import importlib.util
import struct

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from common.config import UserError
from common.data.speech.waveforms import load_waveform, num_frames, pad_waveforms


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
def test_wav_of_every_sample_format_has_the_same_samples(tmp_path, dtype):
    time = np.arange(800) / 8000
    sound = 0.5 * np.sin(2 * np.pi * 200 * time)
    if dtype == np.uint8:
        stored = (sound * 128 + 128).astype(dtype)
    elif dtype == np.float32:
        stored = sound.astype(dtype)
    else:
        stored = (sound * np.iinfo(dtype).max).astype(dtype)
    path = tmp_path / "a.wav"
    wavfile.write(path, 8000, stored)
    torch.testing.assert_close(
        load_waveform(path, 8000), torch.from_numpy(sound).float(), atol=0.01, rtol=0
    )
    assert num_frames(path) == (800, 8000)


def test_stereo_is_averaged_and_another_rate_is_resampled(tmp_path):
    time = np.arange(8000) / 8000
    sound = np.sin(2 * np.pi * 200 * time).astype(np.float32)
    path = tmp_path / "a.wav"
    wavfile.write(path, 8000, np.stack([sound, 0 * sound], 1))
    actual = load_waveform(path, 16000)
    assert actual.shape == (16000,)
    expected = 0.5 * torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
    torch.testing.assert_close(actual[500:-500], expected[500:-500], atol=0.01, rtol=0)


def test_damaged_and_missing_files_are_os_errors(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF1234WAVEjunk")
    with pytest.raises(OSError, match="not a readable WAV|no samples|WAV"):
        load_waveform(path, 8000)
    with pytest.raises(FileNotFoundError):
        load_waveform(tmp_path / "none.wav", 8000)
    with pytest.raises(OSError, match="does not exist"):
        load_waveform(tmp_path / "none.flac", 8000)
    bad = tmp_path / "a.flac"
    bad.write_bytes(b"OggS" + bytes(40))
    with pytest.raises(OSError, match="not a FLAC"):
        num_frames(bad)


@pytest.mark.filterwarnings("ignore:Reached EOF prematurely")
def test_a_wav_of_a_stream_is_as_long_as_it_is(tmp_path):
    """Its header says 4 GB, and every such recording was left out as too long."""
    path = tmp_path / "a.wav"
    wavfile.write(path, 16000, np.zeros(1600, np.int16))
    content = bytearray(path.read_bytes())
    content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert num_frames(path) == (1600, 16000)
    content[24:32] = bytes(8)  # rate and bytes a second
    path.write_bytes(content)
    for read in (num_frames, lambda path: load_waveform(path, 8000)):
        with pytest.raises(OSError, match="no rate"):
            read(path)


def test_flac_length_comes_from_the_header(tmp_path):
    """STREAMINFO: 20 bits rate, 3 channels - 1, 5 depth - 1, 36 samples."""
    info = (16000 << 44) | (0 << 41) | (15 << 36) | 123456
    head = b"fLaC" + bytes([0x80, 0, 0, 34]) + struct.pack(">HH", 4096, 4096) + bytes(6)
    path = tmp_path / "a.flac"
    path.write_bytes(head + info.to_bytes(8, "big") + bytes(16))
    assert num_frames(path) == (123456, 16000)


@pytest.mark.skipif(
    any(importlib.util.find_spec(m) for m in ("soundfile", "torchcodec")), reason="has a decoder"
)
def test_flac_without_decoder_says_what_to_install(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(b"fLaC" + bytes(60))
    with pytest.raises(UserError, match="pip install soundfile"):
        load_waveform(path, 16000)


@pytest.mark.skipif(importlib.util.find_spec("soundfile") is None, reason="needs soundfile")
def test_flac_is_read(tmp_path):
    import soundfile

    path = tmp_path / "a.flac"
    soundfile.write(path, np.linspace(-0.5, 0.5, 1600), 16000)
    assert num_frames(path) == (1600, 16000)
    assert load_waveform(path, 16000).shape == (1600,)


def test_padding_is_zero_and_lengths_are_kept():
    padded, lengths = pad_waveforms([torch.ones(2), torch.ones(4)])
    assert padded.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert lengths.tolist() == [2, 4]
