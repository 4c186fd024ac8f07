"""Which settings of a config a command reads, and which only the parts that copy or check it do."""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# read every setting, whatever becomes of it
COPY = (
    "dataclasses.py",
    "omegaconf/_utils.py",
    "common/config.py",
    "common/ranges.py",
    "common/arguments.py",
    "common/engine/node.py",
    "common/engine/lifecycle/settings.py",
)

Reads = set[tuple[str, str]]  # class of a section, setting


def sections(schema: type) -> set[type]:
    """The schema and the classes of all its sections."""
    hints, found = typing.get_type_hints(schema), {schema}
    for field in dataclasses.fields(schema):
        for kind in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(kind):
                found |= sections(typing.cast(type, kind))
    return found


@contextmanager
def settings_read(schema: type) -> Iterator[Reads]:
    """What is read of a schema's sections inside of the block.

    What dataclasses, omegaconf and the engine read to copy, check or record a config does not
    count, nor what a section's own check reads.
    """
    reads: Reads = set()
    plain = {section: vars(section).get("__getattribute__") for section in sections(schema)}
    for section in plain:
        _watch(section, reads)
    try:
        yield reads
    finally:
        for section, method in plain.items():
            if method is None:
                del section.__getattribute__
            else:
                section.__getattribute__ = method  # type: ignore[method-assign]


def _watch(section: type, reads: Reads) -> None:
    names = {field.name for field in dataclasses.fields(section)}

    def read(self: Any, name: str) -> Any:
        if name in names:
            code = sys._getframe(1).f_code
            if not code.co_filename.endswith(COPY) and code.co_name != "__post_init__":
                reads.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    section.__getattribute__ = read  # type: ignore[method-assign, assignment]
