"""Caches of offline stages: rows (neighbours, teacher scores, LLM outputs) joined by content hash.

A row belongs to a text or a tuple of texts, not to a line number, so a corpus may be reordered, cut
or extended without losing what was computed. What a row depends on besides its own texts (model,
the other texts of the corpus, settings) is written into the cache and compared at every opening.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.config import UserError
from common.files import write_text

Row = dict[str, Any]
Item = str | tuple[str, ...]

CLAIM = "cache.json"  # what a cache folder belongs to
KEY_BYTES = 16


def content_key(item: Item) -> str:
    """Hash of a text or of a tuple of texts, 32 hex digits; ``("ab", "c")`` is not ``("a", "bc")``.

    >>> content_key("red") == content_key(("red",))
    True
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    _feed(digest, (item,) if isinstance(item, str) else item)
    return digest.hexdigest()


def content_digest(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts, aware of order and borders."""
    digest = hashlib.sha256()
    _feed(digest, texts)
    return digest.hexdigest()


def claim(folder: Path, owner: Mapping[str, Any], what: str = "cache", name: str = CLAIM) -> None:
    """Write what a folder belongs to, or compare with what is written there.

    Args:
        folder: created if it does not exist.
        owner: plain values by name; what the content depends on.
        what: how a message calls the folder.
        name: of the file.

    Raises:
        UserError: the folder was made for another owner.
    """
    owner = json.loads(json.dumps(dict(owner)))
    path = folder / name
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        differs = [k for k in {**owner, **stored} if stored.get(k) != owner.get(k)]
        if differs:
            raise UserError(
                f"the {what} {folder} was made for another {', '.join(differs)}; "
                "delete the folder or give another one"
            )
        return
    write_text(path, json.dumps(owner, indent=2) + "\n")


def _feed(digest: Any, texts: Iterable[str]) -> None:
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
