"""What is known of a set: its source, licence, size, checksums, and who converts it."""

import re
from dataclasses import dataclass

from common.config import UserError, nearest


@dataclass(frozen=True)
class RemoteFile:
    """A file at an official address.

    Attributes:
        url: of the file.
        digest: ``md5:...`` or ``sha256:...`` as the publisher states it; None where none is.
        name: under which it is stored; None: the last part of the address.
    """

    url: str
    digest: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.digest is not None:
            kind, _, value = self.digest.partition(":")
            length = {"md5": 32, "sha256": 64}.get(kind, -1)
            if not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
                raise ValueError(f"{self.url}: {self.digest} is no md5: or sha256: digest")

    @property
    def file_name(self) -> str:
        """Name of the stored file."""
        return self.name or self.url.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class HubSource:
    """Files of a data set on the model hub, fetched by the hub's own client."""

    repository: str
    patterns: tuple[str, ...]
    revision: str | None = None


@dataclass(frozen=True)
class OfficialSet:
    """One set of a paper config.

    Attributes:
        name: of the command, and its folder below the data root unless `folder` says otherwise.
        title: what it is.
        licence: as the publisher states it, or where it is stated.
        megabytes: to download, about; None: unknown.
        converter: function of `common.data.official.converters` from the downloaded files to the
            set's folder.
        files: at official addresses.
        hub: or on the hub.
        needs: sets that are fetched before it.
        holds: a file of the finished set, below its folder.
        folder: below the data root; None: `name`.
        steps: what a person has to do where no program may (agreement, registration) or can.
    """

    name: str
    title: str
    licence: str
    megabytes: float | None
    converter: str = "unpack"
    files: tuple[RemoteFile, ...] = ()
    hub: tuple[HubSource, ...] = ()
    needs: tuple[str, ...] = ()
    holds: str = "corpus.jsonl"
    folder: str | None = None
    steps: str | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (not self.files and not self.hub):
            raise ValueError(f"{self.name}: either files, a hub source, or steps")

    @property
    def place(self) -> str:
        """Folder below the data root."""
        return self.folder or self.name


def named_set(name: str, sets: dict[str, OfficialSet]) -> OfficialSet:
    """The record of a name.

    Raises:
        UserError: no such set; names the nearest.
    """
    if name not in sets:
        raise UserError(
            f"there is no official set '{name}'{nearest(name, sets)}: make data lists them"
        )
    return sets[name]


def owner_of(location: str, sets: dict[str, OfficialSet]) -> OfficialSet | None:
    """The set that brings a path below the data root; the innermost of several."""

    def owns(record: OfficialSet) -> bool:
        if record.place == ".":
            return location == record.holds
        return location == record.place or location.startswith(record.place + "/")

    owners = [record for record in sets.values() if owns(record)]
    exact = [record for record in owners if location == f"{record.place}/{record.holds}"]
    return max(exact or owners, key=lambda record: len(record.place), default=None)
