"""Fetch a set: download with resumption, verify, convert, and put the result in place at once."""

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from common.config import UserError
from common.data.official import converters
from common.data.official.catalogue import SETS
from common.data.official.records import OfficialSet, RemoteFile
from common.files import write_text

DOWNLOADS = ".downloads"  # below the data root: archives, and parts of them
SOURCE = ".source-{}.json"  # in a set's folder: where it came from
CHUNK = 1 << 20
TRIES, PAUSE_SECONDS = 5, 1.0
TIMEOUT_SECONDS = 60.0
Say = Callable[[str], None]


def fetch_set(record: OfficialSet, root: Path, say: Say = print) -> Path | None:
    """Bring a set into its folder below the data root, or print what a person has to do.

    A download that is broken off continues with the next call. The folder appears whole, with
    ``source.json`` (addresses, digests, licence); a set that is there already is left alone.

    Args:
        record: of the set.
        root: the data root.
        say: takes lines for the user.

    Returns:
        The folder; None if only steps were printed.

    Raises:
        UserError: no connection, a full disk, a wrong checksum, or files of another layout.
    """
    folder = root / record.place
    if (folder / record.holds).exists():
        say(f"{record.name} is there: {folder}")
        return folder
    if record.steps is not None:
        say(f"{record.name}: {record.title}\nlicence: {record.licence}\nfolder: {folder}")
        say(record.steps)
        return None
    for name in record.needs:
        fetch_set(SETS[name], root, say)
    say(f"{record.name}: {record.title} ({size_of(record)}, licence: {record.licence})")
    _check_room(record, root)
    downloads = root / DOWNLOADS / record.name.replace("/", "-")
    digests: dict[str, str] = {}
    if record.hub:
        _from_hub(record, downloads)
        paths = sorted(path for path in downloads.rglob("*") if path.is_file())
        paths = [path for path in paths if ".cache" not in path.parts]
    else:
        digests = {f.url: download(f, downloads / f.file_name, say) for f in record.files}
        paths = [downloads / file.file_name for file in record.files]
    building = root / DOWNLOADS / f"{downloads.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    getattr(converters, record.converter)(paths, building, root)
    if not (building / record.holds).exists():
        raise UserError(
            f"{record.name}: the downloaded files hold no {record.holds}: their publisher has"
            " changed them"
        )
    about = {
        "name": record.name,
        "licence": record.licence,
        "sources": digests,
        "repositories": [source.repository for source in record.hub],
    }
    write_text(
        building / SOURCE.format(record.name.replace("/", "-")), json.dumps(about, indent=1) + "\n"
    )
    _put_in_place(building, folder)
    shutil.rmtree(downloads, ignore_errors=True)
    say(f"{record.name}: {folder}")
    return folder


def download(file: RemoteFile, path: Path, say: Say = print) -> str:
    """A file at an address, from where an earlier call broke off.

    Args:
        file: its address and digest.
        path: where it goes; ``<path>.part`` until it is complete and right.
        say: takes lines for the user.

    Returns:
        Its digest: the stated kind, else ``sha256:...``.

    Raises:
        UserError: the server cannot be reached or refuses, or the digest is another one; the wrong
            file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    kind = "sha256" if file.digest is None else file.digest.partition(":")[0]
    if not path.is_file():
        reason = ""
        for attempt in range(TRIES):
            try:
                _continue(file.url, part)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise UserError(
                        f"{file.url} answers {error.code} {error.reason}: see the publisher's page"
                    ) from error
                reason = str(error)
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error))
            if attempt < TRIES - 1:
                time.sleep(PAUSE_SECONDS * 2**attempt)
        else:
            raise UserError(
                f"{file.url} could not be downloaded ({reason}): run the command again, it"
                " continues where it was"
            )
    complete = path if path.is_file() else part
    digest = f"{kind}:{_digest(complete, kind)}"
    if file.digest is not None and digest != file.digest:
        complete.unlink()
        _version_of(part).unlink(missing_ok=True)
        raise UserError(
            f"{file.url} has the checksum {digest}, not {file.digest}: it was deleted, download it"
            " again"
        )
    if complete is part:
        part.replace(path)
        _version_of(part).unlink(missing_ok=True)
    if file.digest is None:
        say(f"{path.name}: no published checksum; {digest}")
    return digest


def size_of(record: OfficialSet) -> str:
    """About how much a download is, in words."""
    if record.megabytes is None:
        return "size unknown"
    if record.megabytes >= 1000:
        return f"{record.megabytes / 1000:.1f} GB"
    return f"{record.megabytes:.0f} MB" if record.megabytes >= 1 else "less than 1 MB"


def _continue(url: str, part: Path) -> None:
    """Append what a partial file lacks; one of another version of the file begins again."""
    mark = _version_of(part)
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "contrastive-monorepo"}
    if have and mark.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": mark.read_text("utf-8")}
    else:
        have = 0
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            return
        raise
    with answer:
        resumed = answer.status == 206
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if not resumed:
            mark.unlink(missing_ok=True)
            if version and not version.startswith("W/"):
                write_text(mark, version)
        length = answer.headers.get("Content-Length")
        expected = None if length is None else int(length) + (have if resumed else 0)
        with part.open("ab" if resumed else "wb") as target:
            while chunk := answer.read(CHUNK):
                target.write(chunk)
    if expected is not None and part.stat().st_size < expected:
        raise ConnectionError(f"{part.stat().st_size} of {expected} bytes arrived")


def _version_of(part: Path) -> Path:
    """Where the server's name of a file's version is kept until the file is complete."""
    return part.with_name(part.name + ".version")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _check_room(record: OfficialSet, root: Path) -> None:
    """Refuse a download that the disk has no room for: archive, and what comes out of it."""
    if record.megabytes is None:
        return
    root.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(root).free / 1e6, 4 * record.megabytes
    if free < needed:
        raise UserError(
            f"{root} has {free / 1000:.0f} GB free, and {record.name} needs about"
            f" {needed / 1000:.0f} GB while it is unpacked: set another data.root"
        )


def _from_hub(record: OfficialSet, folder: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise UserError("the hub's client is missing: install the extra 'text'") from error
    for source in record.hub:
        try:
            snapshot_download(
                source.repository,
                repo_type="dataset",
                revision=source.revision,
                allow_patterns=list(source.patterns),
                local_dir=folder,
            )
        except Exception as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise UserError(
                f"{source.repository} could not be fetched from the hub"
                f" ({type(error).__name__}): {reason}"
            ) from error


def _put_in_place(building: Path, folder: Path) -> None:
    """Rename the finished set; files that a person has put into its folder stay."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        building.replace(folder)
        return
    for path in sorted(building.iterdir()):
        target = folder / path.name
        if target.exists():
            raise UserError(f"{target} is in the way: move it, then run the command again")
    for path in sorted(building.iterdir()):
        path.replace(folder / path.name)
    building.rmdir()
