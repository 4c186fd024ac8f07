"""Where data is: the configured root, bundled folders, and errors that say how to get a set."""

import os
from pathlib import Path

from common.config import ROOT, UserError

BUNDLED = ROOT / "data"  # small sets and models that are tracked in the repository


def data_root(root: str | None = None) -> Path:
    """Folder of the data sets.

    Args:
        root: ``cfg.data.root``; None: environment variable ``DATA_DIR``, else ``./data``.

    Returns:
        The folder, with ``~`` expanded.

    Raises:
        UserError: a folder was named, in the config or the environment, and does not exist.
    """
    named = root or os.environ.get("DATA_DIR")
    path = Path(named or "data").expanduser()
    if named and not path.is_dir():
        where = "data.root" if root else "the environment variable DATA_DIR"
        raise UserError(f"the data folder {path}, named by {where}, does not exist")
    return path


def bundled(name: str, root: str | None = None) -> Path:
    """Path of a set or model that ships with the repository.

    Args:
        name: path below ``data/``, e.g. ``clipart`` or ``models/stories260k``.
        root: ``cfg.data.root``; a copy below it is preferred to the tracked one.

    Returns:
        Existing path.

    Raises:
        UserError: it is neither below the data root nor in the repository's ``data/``.
    """
    candidates = [data_root(root) / name, BUNDLED / name]
    for path in candidates:
        if path.exists():
            return path
    raise UserError(
        f"bundled data '{name}' not found in {candidates[0]} or the repository's data/: restore "
        "it with `git checkout -- data`, or set data.root to a folder that holds it"
    )


def require(path: str | Path, *, what: str, layout: str, source: str, size: str) -> Path:
    """Return `path` if it exists, else report what belongs there and where to get it.

    Args:
        path: file or folder that is needed.
        what: name of the data set or file.
        layout: what is expected at or below `path`.
        source: official place to get it.
        size: approximate download size, e.g. ``5 GB``.

    Raises:
        UserError: nothing exists at `path`.
    """
    path = Path(path).expanduser()
    if path.exists():
        return path
    raise UserError(
        f"{what} not found: {path} does not exist. Expected layout: {layout}. "
        f"Get it from {source} ({size}), then set data.root or the path in the config"
    )


def own_file(name: str, root: str | None, what: str) -> Path:
    """A user's file, by its path or below the data root.

    Args:
        name: path; ``~`` is expanded.
        root: ``cfg.data.root``.
        what: it holds, for the message.

    Raises:
        UserError: it is in neither place.
    """
    path = Path(name).expanduser()
    path = path if path.is_file() else data_root(root) / name
    if not path.is_file():
        raise UserError(
            f"the file of {what} {name} does not exist, here or below {data_root(root)}"
        )
    return path
