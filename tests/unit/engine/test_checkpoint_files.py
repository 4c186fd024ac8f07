"""Checkpoint files that notice damage, and disks that are full."""

import random
import resource
import tempfile
import zipfile

import pytest
import torch

from common.config import UserError
from common.engine import checkpoint as ckpt

CONTENT = {"state_dict": {"a": torch.arange(600.0), "b": torch.ones(3, 2)}, "global_step": 4}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "step-00000004.ckpt"
    ckpt.write(CONTENT, file)
    return file


def test_what_is_written_is_read_by_us_and_by_torch(path):
    for content in (ckpt.load(path), torch.load(path, weights_only=True, mmap=True)):
        assert content["global_step"] == 4
        assert torch.equal(content["state_dict"]["a"], torch.arange(600.0))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_no_flipped_bit_changes_what_is_read(path):
    """Random places, and all bits of the last records: noticed, refused, or of no effect."""
    whole = path.read_bytes()
    rng = random.Random(0)
    bits = {rng.randrange(8 * len(whole)) for _ in range(300)}
    bits |= set(range(8 * (len(whole) - 95), 8 * len(whole)))
    noticed = 0
    for bit in sorted(bits):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        if ckpt.damage(path) is not None:
            noticed += 1
            continue
        try:
            content = ckpt.load(path)
        except UserError:
            noticed += 1
            continue
        assert content["global_step"] == 4
        assert torch.equal(content["state_dict"]["a"], torch.arange(600.0))
        assert torch.equal(content["state_dict"]["b"], torch.ones(3, 2))
    assert noticed > 300
    path.write_bytes(whole)
    assert ckpt.damage(path) is None


def test_every_flipped_bit_of_a_weight_is_noticed(path):
    whole = path.read_bytes()
    start = whole.index(torch.arange(600.0).numpy().tobytes())
    rng = random.Random(1)
    for bit in (rng.randrange(8 * 2400) for _ in range(100)):
        changed = bytearray(whole)
        changed[start + bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        assert ckpt.damage(path) == "does not match its checksum"
    with pytest.raises(ckpt.Damaged, match="cannot be read as a checkpoint: it does not match"):
        ckpt.load(path)


def test_cut_off_and_zeroed_files_are_noticed(path):
    whole = path.read_bytes()
    for size in (0, 10, 50, 71, len(whole) // 2, len(whole) - 71, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert ckpt.damage(path), size
    path.write_bytes(bytes(len(whole)))
    assert ckpt.damage(path)
    path.unlink()
    assert ckpt.damage(path) == "is missing"


def test_a_file_with_bytes_behind_it_is_read_or_refused(path):
    with path.open("ab") as file:
        file.write(b"\0")
    if ckpt.damage(path) is None:
        assert torch.equal(ckpt.load(path)["state_dict"]["b"], torch.ones(3, 2))


def test_a_checkpoint_of_0_1_0_is_read(path):
    """It has a comment behind the archive: the checksum of the whole."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"sha256:" + b"0" * 64
    assert ckpt.damage(path) is None
    assert ckpt.load(path)["global_step"] == 4


def test_code_in_a_checkpoint_is_refused_without_advice_to_load_it(path):
    torch.save({"state_dict": {"a": print}}, path)
    with pytest.raises(UserError, match="code from a checkpoint is never run") as error:
        ckpt.load(path)
    assert "weights_only" not in str(error.value)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(path, monkeypatch):
    """A limit on the size of files stands for the end of the disk."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"state_dict": {"a": torch.randn(100_000)}}
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*step-00000004.ckpt: File too large"):
            ckpt.write(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")  # nothing takes the way through it
    ckpt.write(big, path)
    assert ckpt.damage(path) is None
