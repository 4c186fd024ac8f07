"""What is in webdataset shards: names of tar files, texts and numbers of samples."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError

Sample = dict[str, Any]  # suffix -> undecoded bytes, with __key__ and __url__


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """List of shards from a pattern with braces or a list of patterns.

    Raises:
        UserError: nothing named, or a local shard that does not exist.
    """
    from braceexpand import braceexpand

    patterns = [shards] if isinstance(shards, str) else list(shards)
    expanded = [str(name) for pattern in patterns for name in braceexpand(pattern)]
    local = [name for name in expanded if "://" not in name and not name.startswith("pipe:")]
    missing = [name for name in local if not Path(name).is_file()]
    if missing or not expanded:
        first = f", first {missing[0]}" if missing else ""
        raise UserError(
            f"{len(missing)} of {len(expanded)} shards do not exist{first}. Expected layout: tar"
            " files of samples key.jpg + key.txt (+ key.json), as img2dataset writes them"
        )
    return expanded


def is_cut_off(url: str) -> bool:
    """Whether a local, uncompressed shard lacks the two blocks of zeros that end a tar file."""
    path = Path(url)
    if path.suffix != ".tar" or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read() != bytes(1024)


def sample_texts(sample: Sample, text_keys: Sequence[str]) -> list[str]:
    """Texts of an undecoded sample, in the order of the keys.

    Raises:
        KeyError: a file or field is missing.
        ValueError: undecodable bytes or JSON, or a text that is empty or of another type.
    """
    texts: list[Any] = []
    for name in text_keys:
        file, _, key = name.partition(".")
        content = sample[file].decode("utf-8")
        value = json.loads(content)[key] if key else content.strip()
        texts += value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"texts must be non-empty strings, got {texts!r}"[:200])
    return texts


def sample_id(key: str) -> int:
    """Number of a sample: its key if that is a number, else a stable hash of it, in [0, 2**63)."""
    if key.isdecimal() and len(key) <= 18:
        return int(key)
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
