"""`make data`: official sets, by name or as a config needs them."""

from collections.abc import Sequence
from pathlib import Path

from common.data.lookup import data_root
from common.data.official.catalogue import SETS
from common.data.official.fetch import fetch_set, size_of
from common.data.official.records import OfficialSet, named_set, owner_of
from common.engine.experiment import Requirement
from common.engine.run import prepare


def fetch(name: str, root: str) -> None:
    """Fetch one set into a data root ("": the default one)."""
    fetch_set(named_set(name, SETS), data_root(root or None))


def fetch_missing(project: str, config: str, overrides: Sequence[str]) -> bool:
    """Fetch what a config needs and is not here, as far as the catalogue has it.

    Returns:
        Whether everything is here now.

    Raises:
        UserError: see `fetch_set`.
    """
    cfg, experiment = prepare(project, config, overrides)
    root = data_root(cfg.data.root)
    missing = [need for need in experiment.plan().requirements if not need.present]
    if not missing:
        print(f"{project}/{config} has all that it needs")  # noqa: T201
        return True
    records = dict.fromkeys(record for need in missing if (record := record_of(need, root)))
    complete = True
    for record in records:
        complete &= fetch_set(record, root) is not None
    for need in missing:
        if record_of(need, root) is None:
            complete = False
            print(f"{need.name}: {need.location}; {need.hint}")  # noqa: T201
    return complete


def record_of(need: Requirement, root: Path) -> OfficialSet | None:
    """The official set that brings what a config needs; None if the catalogue has none."""
    try:
        inside = Path(need.location).expanduser().resolve().relative_to(root.resolve())
    except ValueError:
        return None
    return owner_of(str(inside), SETS)


def listing(root: str) -> str:
    """All sets with their size, licence, and whether they are here."""
    base = data_root(root or None)
    lines = []
    for record in SETS.values():
        here = (base / record.place / record.holds).exists()
        state = "here" if here else "by hand" if record.steps is not None else size_of(record)
        lines.append(f"{record.name:22} {state:14} {record.title}; licence: {record.licence}")
    return "\n".join(lines)
