"""The hook that refuses large files, private keys and files without a final newline."""

from pathlib import Path

import pytest

from scripts import check_files

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("", "RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ", "PGP ")
END = "PRIVATE" + " KEY"  # in two parts, since the hook looks at this file too


@pytest.mark.parametrize(
    "line",
    [
        *(f"-----BEGIN {kind}{END}-----" for kind in KINDS),
        f"---- BEGIN SSH2 ENCRYPTED {END} ----",
        "PuTTY-User-Key" + "-File-3: ssh-ed25519",
    ],
)
def test_private_keys_are_found(tmp_path, line):
    path = tmp_path / "key"
    for text in (f"{line}\nAAAA\n", f"below a comment\n{line}\nAAAA\n"):
        path.write_text(text)
        assert check_files.problems(path) == [f"{path}: holds a private key"]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----\n",
        "-----BEGIN CERTIFICATE-----\n",
        "a private key\n",
        f"the words {END} in a sentence\n",
        "",
    ],
)
def test_other_files_pass(tmp_path, text):
    path = tmp_path / "file"
    path.write_text(text)
    assert check_files.problems(path) == []


def test_the_hook_passes_itself_and_these_tests():
    for path in (Path(check_files.__file__), Path(__file__)):
        assert check_files.problems(path) == []


def test_size_and_last_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("x" * (check_files.LIMIT + 1))
    large, newline = check_files.problems(path)
    assert "limit 500,000" in large
    assert newline.endswith("no newline at the end")
    path.write_bytes(b"\0picture")
    assert check_files.problems(path) == []
