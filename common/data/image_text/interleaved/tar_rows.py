"""Samples of webdataset shards by number, without unpacking: for sets that are read in an order of their own."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.config import UserError
from common.data.image_text.shards import Sample, expand_shards


class _Member(NamedTuple):
    suffix: str
    offset: int
    size: int


class TarRows:
    """Local tar shards as a sequence of undecoded samples.

    The headers of all shards are read once, when the set is opened; contents when they are asked for.

    Args:
        shards: see `expand_shards`; uncompressed local files.
        needed: suffixes that a sample must have, such as ``json``; one of each group that ``|`` separates.

    Raises:
        UserError: a missing or damaged shard, or no such sample in any.
    """

    def __init__(self, shards: str | Sequence[str], needed: Sequence[str] = ()) -> None:
        self.rows: list[tuple[str, str, list[_Member]]] = []
        for shard in expand_shards(shards):
            for key, members in self._read(shard).items():
                there = {member.suffix for member in members}
                if all(there & set(group.split("|")) for group in needed):
                    self.rows.append((shard, key, members))
        if not self.rows:
            raise UserError(f"no sample of {shards} has the files {', '.join(needed)}")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Suffix -> bytes of a sample, with ``__key__`` and ``__url__``."""
        shard, key, members = self.rows[index]
        sample: Sample = {"__key__": key, "__url__": shard}
        with Path(shard).open("rb") as file:
            for member in members:
                file.seek(member.offset)
                sample[member.suffix] = file.read(member.size)
        return sample

    @staticmethod
    def _read(shard: str) -> dict[str, list[_Member]]:
        found: dict[str, list[_Member]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for info in tar:
                    if info.isfile():
                        folder, _, name = info.name.rpartition("/")
                        stem, _, suffix = name.partition(".")
                        key = f"{folder}/{stem}" if folder else stem
                        found.setdefault(key, []).append(
                            _Member(suffix.lower(), info.offset_data, info.size)
                        )
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{shard} is no readable tar file: {error}") from error
        return found
