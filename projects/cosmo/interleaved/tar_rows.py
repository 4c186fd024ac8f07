"""Samples of webdataset shards by number, without unpacking: random access."""

import logging
import tarfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.config import UserError
from common.data.image_text.shards import Sample, expand_shards, is_cut_off

log = logging.getLogger(__name__)


class _Member(NamedTuple):
    suffix: str
    offset: int
    size: int


class TarRows:
    """Local tar shards as a sequence of undecoded samples.

    The headers of all shards are read once, when the set is opened; contents when they are asked
    for.

    Args:
        shards: see `expand_shards`; uncompressed local files.
        needed: suffixes that a sample must have, such as ``json``; one of each group that ``|``
            separates.

    Raises:
        UserError: a missing or damaged shard, or no such sample in any.
    """

    def __init__(self, shards: str | Sequence[str], needed: Sequence[str] = ()) -> None:
        self._shards = expand_shards(shards)
        # numbers and one buffer of keys: objects would be 10 GB for 14 million samples
        keys, suffixes, seen = bytearray(), dict[str, int](), 0
        places, members = array("q"), array("q")  # three numbers a sample, three a file
        for number, shard in enumerate(self._shards):
            for key, files in self._read(shard).items():
                seen += 1
                there = {member.suffix for member in files}
                if not all(there & set(group.split("|")) for group in needed):
                    continue
                for suffix, offset, size in files:
                    members.extend((suffixes.setdefault(suffix, len(suffixes)), offset, size))
                keys += key.encode("utf-8", "surrogateescape")  # as tarfile decodes names
                places.extend((number, len(keys), len(members) // 3))
        if not places:
            raise UserError(f"no sample of {shards} has the files {', '.join(needed)}")
        self._keys, self._suffixes = bytes(keys), list(suffixes)
        # shard, ends of key and files; suffix, offset, size
        self._places, self._members = (
            np.frombuffer(table, np.int64).reshape(-1, 3) for table in (places, members)
        )
        if lacking := seen - len(self):
            log.warning(
                "%d of %d samples of %s lack one of the files %s and are left out",
                lacking,
                seen,
                shards,
                ", ".join(needed),
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        """Suffix -> bytes of a sample, with ``__key__`` and ``__url__``."""
        index = range(len(self))[index]
        number, key_end, end = self._places[index].tolist()
        _, key_start, start = self._places[index - 1].tolist() if index else (0, 0, 0)
        key = self._keys[key_start:key_end].decode("utf-8", "surrogateescape")
        sample: Sample = {"__key__": key, "__url__": self._shards[number]}
        with Path(self._shards[number]).open("rb") as file:
            for suffix, offset, size in self._members[start:end].tolist():
                file.seek(offset)
                sample[self._suffixes[suffix]] = file.read(size)
        return sample

    @staticmethod
    def _read(shard: str) -> dict[str, list[_Member]]:
        samples: dict[str, list[_Member]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for info in tar:
                    if info.isfile():
                        folder, _, name = info.name.rpartition("/")
                        stem, _, suffix = name.partition(".")
                        key = f"{folder}/{stem}" if folder else stem
                        samples.setdefault(key, []).append(
                            _Member(suffix.lower(), info.offset_data, info.size)
                        )
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{shard} is not a readable tar file: {error}") from error
        if is_cut_off(shard):  # between two files, which tarfile takes for the end
            raise UserError(f"{shard} has no end, so samples of it are missing: get it again")
        return samples
