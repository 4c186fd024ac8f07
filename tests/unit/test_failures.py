"""Errors of the machine become one sentence; errors of the program stay what they are."""

import errno
import re

import pytest
import torch

from common import cli
from common.config import UserError
from common.failures import explain, is_lost_peer
from common.losses.info_nce import InfoNCELoss


def raised_on(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/data/x")
SENTENCES = [
    (FULL, r"no space left on the disk \(/data/x\): free some"),
    (raised_on(RuntimeError("PytorchStreamWriter failed"), FULL), "no space left"),
    (Exception("I/O error: No space left on device (os error 28)"), "no space left"),
    (OSError(errno.EFBIG, "File too large"), "larger than the system allows"),
    (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "/mnt/x is read-only"),
    (
        PermissionError(errno.EACCES, "Permission denied", "/data/x"),
        "no permission to open /data/x",
    ),
    (
        OSError(errno.ENAMETOOLONG, "File name too long", "/a/" + "b" * 300),
        r"the path /a/b+\.\.\. is",
    ),
    (MemoryError(), r"out of memory \(of the host\): lower data\.batch_size"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    (
        RuntimeError("DataLoader worker (pid(s) 71, 72) exited unexpectedly"),
        "loader process 71, 72 was killed.*data.num_workers",
    ),
    (
        RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed."),
        "loader process 71 was killed",
    ),
]


@pytest.mark.parametrize(("error", "sentence"), SENTENCES)
def test_an_error_of_the_machine_is_one_sentence(error, sentence):
    said = explain(error)
    assert re.search(sentence, said)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: torch.nn.BatchNorm1d(4)(torch.ones(1, 4)), "samples a process: raise data.batch"),
        (
            lambda: InfoNCELoss(backend="triton")(torch.eye(2), torch.eye(2), 1.0),
            "need a CUDA device.*; loss_backend=auto takes",
        ),
    ],
)
def test_what_a_library_refuses_is_one_sentence(refused, said):
    with pytest.raises(ValueError, match="more than 1 value|triton") as raised:
        refused()
    assert re.search(said, explain(raised.value))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes do not match"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        UserError("out of memory is what this error is about"),
        raised_on(UserError("one sentence already"), FULL),
    ],
)
def test_other_errors_are_left_alone(error):
    assert explain(error) is None


def test_a_lost_peer_is_told_from_other_errors():
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert is_lost_peer(gone)
    assert is_lost_peer(raised_on(ValueError("x"), gone))
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("words", [["list"], ["report"], ["runs"]])
def test_every_verb_ends_with_it(words, monkeypatch, capsys):
    def full(*_):
        raise FULL

    verb = cli.VERBS[words[0]]
    monkeypatch.setitem(cli.VERBS, words[0], verb.__class__(**{**verb.__dict__, "run": full}))
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("error: no space left on the disk (/data/x)")
