"""Damaged and missing files are named, with what to do; what is torn off is left out."""

import gzip
import io
import multiprocessing as mp
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.config import ROOT, UserError
from common.damage import remedy
from common.data.image.sources import EvalTransform
from common.data.image_text.shards import is_cut_off
from common.data.image_text.streaming import CaptionedSamples, ShardStream
from common.data.packed import PackedImages
from common.data.retrieval.beir import json_rows
from common.data.retrieval.readers import _json_lines
from common.data.tables import read_jsonl
from common.data.text.tokenizers import ClipTokenizer
from common.encoders.state_dict import read_state_dict
from common.encoders.text.tower import load_tokenizer, load_transformer
from common.engine import progress
from common.engine.lifecycle.run import Run
from common.engine.tracking import MetricsCSV, drop_rows_after, read_metrics
from projects.trend.scans.kitti import packed_clip

pytestmark = pytest.mark.slow

ENCODER = ROOT / "data/models/text-encoder"
DRIVE = ROOT / "data/lidar-kitti/drive0005.npz"


def cut(path: Path, share: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_files_of_the_repository_come_back_from_git(tmp_path):
    assert remedy(DRIVE) == "restore it by: git checkout -- 'data/lidar-kitti/drive0005.npz'"
    assert remedy(tmp_path / "x") == remedy(ROOT / "runs/x") == "get it again"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ENCODER, tmp_path / "my encoder"))


@pytest.mark.skipif(not ENCODER.exists(), reason="needs the bundled text encoder")
def test_an_encoder_without_its_vocabulary_is_refused(encoder):
    assert load_tokenizer(str(encoder))("a house").input_ids
    (encoder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="my encoder.*(vocabulary|cannot be loaded).*get it again"):
        load_tokenizer(str(encoder))


@pytest.mark.skipif(not ENCODER.exists(), reason="needs the bundled text encoder")
@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_file_of_an_encoder_that_is_cut_off_is_refused(encoder, name):
    cut(encoder / name)
    with pytest.raises(UserError, match="cannot be loaded from .*my encoder.*get it again"):
        (load_tokenizer if name == "tokenizer.json" else load_transformer)(str(encoder))


def test_weights_that_are_cut_off_are_refused(tmp_path):
    save_file({"weight": torch.zeros(64, 64)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x\.safetensors is not a readable .*: get it again"):
        read_state_dict(cut(tmp_path / "x.safetensors"))


@pytest.mark.skipif(not DRIVE.exists(), reason="needs the bundled drive")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_drive_that_is_cut_off_is_refused(tmp_path, share):
    path = cut(Path(shutil.copy(DRIVE, tmp_path / "drive.npz")), share)
    with pytest.raises(UserError, match=r"drive\.npz is not a packed LiDAR drive, or damaged"):
        packed_clip(path)


def test_an_array_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "drive.npz"
    values = np.random.default_rng(0).integers(0, 99, 4000)
    np.savez_compressed(path, xyz_cm=values, intensity=values, offsets=values, poses_est=values)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"drive\.npz is not a packed LiDAR drive, or damaged"):
        packed_clip(path)


def test_a_packed_set_that_is_cut_off_is_refused(tmp_path):
    np.savez(tmp_path / "set.npz", data=np.zeros(9, np.uint8), offsets=np.arange(3))
    with pytest.raises(UserError, match=r"set\.npz is not a readable .npz file.*get it again"):
        PackedImages(cut(tmp_path / "set.npz"))


@pytest.mark.parametrize("read", [read_jsonl, lambda p: list(_json_lines(p))])
def test_lines_that_are_torn_are_named(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"_id": "1", "text": "a"}\n{"_id": "2", "te')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2.*get it again"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "read",
    [read_jsonl, lambda p: list(_json_lines(p)), lambda p: list(json_rows(p.parent, "a.jsonl"))],
)
def test_archives_that_are_cut_off_are_named(tmp_path, read):
    lines = "".join(f'{{"_id": "{i}", "text": "{i * 77777 % 99991}"}}\n' for i in range(3000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz.*get it again"):
        read(cut(tmp_path / "a.jsonl.gz"))


def shard(path: Path, pairs: int) -> None:
    with tarfile.open(path, "w") as tar:
        for i in range(pairs):
            for suffix, content in (("png", b"x" * 80), ("txt", b"text")):
                info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"junk" * 9999),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[: 20 * 1024]),  # between two files
        lambda path: path.write_bytes(path.read_bytes()[: 20 * 1024 + 515]),  # inside of one
    ],
)
def test_a_damaged_shard_of_two_stops_the_stream(tmp_path, damage):
    for name in ("0.tar", "1.tar"):
        shard(tmp_path / name, 20)
    names = [str(tmp_path / name) for name in ("0.tar", "1.tar")]
    assert [is_cut_off(name) for name in names] == [False, False]
    samples = CaptionedSamples(EvalTransform(8), ClipTokenizer(8), seed=0)
    data = ShardStream(names, samples, batch_size=60, seed=0)
    damage(tmp_path / "1.tar")
    said = r"1 of 2 shards cannot be read to their end, last .*1\.tar.*get it again"
    with pytest.raises(UserError, match=said):
        next(iter(data))


# -- metrics.csv ---------------------------------------------------------------------------------


def written(path: Path) -> None:
    log = MetricsCSV(path, "train")
    for step in (1, 2, 3):
        log.log_metrics({"loss": 0.5 / step}, step)


@pytest.mark.parametrize(
    "torn",
    [
        "",
        "t",
        "train,",
        "train,4,lo",
        "train,4,loss,",
        "train,4,loss,0.1",
        "\0" * 40,
        "\0" * 40 + "\n",
        "train,4\n",
    ],
)
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    path = tmp_path / "metrics.csv"
    written(path)
    whole = read_metrics(path)
    with path.open("a") as file:
        file.write(torn)
    assert read_metrics(path) == whole == {"train/loss": [(1, 0.5), (2, 0.25), (3, 0.5 / 3)]}
    drop_rows_after(path, "train", 2)
    MetricsCSV(path, "train").log_metrics({"loss": 1.0}, 3)
    assert read_metrics(path)["train/loss"] == [(1, 0.5), (2, 0.25), (3, 1.0)]


# -- a stderr that nobody reads ------------------------------------------------------------------


def closed() -> object:
    """A stderr whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w", buffering=1)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_display_without_a_reader_does_no_harm(monkeypatch, terminal):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", closed())
    monkeypatch.setattr(progress, "_is_terminal", lambda: terminal)
    assert list(progress.track(range(3), "x")) == [0, 1, 2]
    monkeypatch.setattr(sys, "stderr", None)  # closed before Python began
    assert list(progress.track(range(3), "x")) == [0, 1, 2]


def _train_unheard(folder: Path) -> None:
    from common import cli
    from tests.toy.command import use_toy

    sys.stderr = closed()
    progress.LINE_SECONDS = 0.0
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_toy(monkeypatch)
        words = [
            "train",
            "toy",
            "smoke",
            f"runs_dir={folder}",
            "run_id=r",
            "num_stages=1",
            "trainer.max_steps=4",
            "tracking.wandb=disabled",
        ]
        os._exit(cli.main(words))  # multiprocessing would flush the stream and fail


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks")
def test_training_goes_on_when_stderr_is_closed(tmp_path):
    process = mp.get_context("fork").Process(target=_train_unheard, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "toy/smoke/r/metrics.json").exists()


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried")]
)
def test_too_little_memory_says_what_to_lower(tmp_path, error):
    with pytest.raises(UserError, match=r"out of memory .*: lower data\.batch_size"):  # noqa: SIM117
        with Run(tmp_path / "r", "p", "c", owner=True):
            raise error
