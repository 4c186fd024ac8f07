"""What is in webdataset shards: names of tar files, texts and numbers of samples."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config import UserError

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
Sample = dict[str, Any]  # suffix -> undecoded bytes, with __key__ and __url__


def expand_shards(shards: str | Sequence[str], root: Path | None = None) -> list[str]:
    """List of shards from a pattern with braces or a list of patterns.

    Args:
        shards: local paths, or what webdataset opens: URLs and ``pipe:`` commands.
        root: folder of relative paths; None: the working directory.

    Raises:
        UserError: nothing named, or a local shard that does not exist.
    """
    expanded = [place(name, root) for name in names_of(shards)]
    local = [name for name in expanded if is_local(name)]
    missing = [name for name in local if not Path(name).is_file()]
    if missing or not expanded:
        first = f", first {missing[0]}" if missing else ""
        raise UserError(
            f"{len(missing)} of {len(expanded)} shards do not exist{first}. Expected layout: tar"
            " files of samples key.jpg + key.txt (+ key.json), as img2dataset writes them"
        )
    return expanded


def names_of(shards: str | Sequence[str]) -> Iterator[str]:
    """Names in a pattern with braces or a list of patterns."""
    from braceexpand import braceexpand

    for pattern in [shards] if isinstance(shards, str) else shards:
        yield from map(str, braceexpand(pattern))


def place(name: str, root: Path | None) -> str:
    """Path of a shard below a folder; a URL or command as it is."""
    return str(root / name) if root is not None and is_local(name) else name


def is_local(name: str) -> bool:
    """Whether a shard is a file, and neither a URL nor a command."""
    return "://" not in name and not name.startswith("pipe:")


def is_cut_off(url: str) -> bool:
    """Whether a local, uncompressed shard lacks the two blocks of zeros that end a tar file."""
    path = Path(url)
    if path.suffix != ".tar" or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return file.read() != bytes(1024)


def sample_image(sample: Sample) -> bytes:
    """The undecoded image of a sample.

    Raises:
        KeyError: it has none.
    """
    name = next((key for key in IMAGE_KEYS if key in sample), None)
    if name is None:
        raise KeyError(f"no image ({', '.join(IMAGE_KEYS)})")
    content: bytes = sample[name]
    return content


def sample_texts(sample: Sample, text_keys: Sequence[str], allow_empty: bool = False) -> list[str]:
    """Texts of an undecoded sample, in the order of the keys.

    Args:
        sample: suffix -> bytes.
        text_keys: ``txt`` is a file, ``json.rewrites`` a field (text or list of texts) of one.
        allow_empty: as long as one text is not empty.

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
    filled = [isinstance(text, str) and bool(text.strip() or allow_empty) for text in texts]
    if not all(filled) or not any(text.strip() for text in texts):
        raise ValueError(f"texts must be non-empty strings, got {texts!r}"[:200])
    return texts


def sample_id(key: str) -> int:
    """Number of a sample: its key if that is a number, else a stable hash of it, in [0, 2**63)."""
    if key.isdecimal() and len(key) <= 18:
        return int(key)
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
