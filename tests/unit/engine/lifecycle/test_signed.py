"""Checkpoint files that notice damage, and disks that are full."""

import random
import resource
import tempfile
import zipfile

import pytest
import torch

from common.config import UserError
from common.engine import checkpoint as ckpt
from common.engine.lifecycle import signed

CONTENT = {"state_dict": {"a": torch.arange(600.0), "b": torch.ones(3, 2)}, "global_step": 4}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "step-00000004.ckpt"
    signed.write(CONTENT, file)
    return file


def test_what_is_written_is_read_by_us_by_torch_and_as_zip(path):
    for content in (ckpt.load(path), torch.load(path, weights_only=True, mmap=True)):
        assert content["global_step"] == 4
        assert torch.equal(content["state_dict"]["a"], torch.arange(600.0))
    with zipfile.ZipFile(path) as archive:
        assert archive.comment.startswith(b"sha256:")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_every_flipped_bit_is_found(path):
    """Random places, and all bits of the checksum and of the record before it."""
    whole = path.read_bytes()
    rng = random.Random(0)
    bits = {rng.randrange(8 * len(whole)) for _ in range(300)}
    bits |= set(range(8 * (len(whole) - 95), 8 * len(whole)))
    missed = []
    for bit in sorted(bits):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        if signed.damage(path) is None:
            missed.append(bit)
    assert missed == []
    path.write_bytes(whole)
    assert signed.damage(path) is None


def test_cut_off_grown_and_zeroed_files_are_found(path):
    whole = path.read_bytes()
    for size in (0, 10, 50, 71, len(whole) // 2, len(whole) - 71, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert signed.damage(path), size
    path.write_bytes(whole + b"\0")
    assert signed.damage(path)
    path.write_bytes(bytes(len(whole)))
    assert signed.damage(path)
    path.unlink()
    assert signed.damage(path) == "is missing"


def test_a_file_without_checksum_is_checked_by_its_members(path):
    """Checkpoints of older versions go on to be read."""
    torch.save(CONTENT, path)
    assert signed.damage(path) is None
    whole = bytearray(path.read_bytes())
    place = whole.index(torch.arange(600.0).numpy().tobytes()[:400])
    whole[place + 100] ^= 4
    path.write_bytes(whole)
    assert "checksum of its member" in signed.damage(path)
    with pytest.raises(ckpt.Damaged, match="cannot be read as a checkpoint: it does not match"):
        ckpt.load(path)


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
            signed.write(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")  # nothing takes the way through it
    signed.write(big, path)
    assert signed.damage(path) is None
