"""What the shell may complete: projects, their configs, and the keys of their settings."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from common.config import UserError, config_names
from common.registry import config_class, list_projects


def complete_words(prefix: str, parsed_args: Any, configs: bool = True, **_: Any) -> list[str]:
    """Candidates for a word behind the verb, for argcomplete.

    Args:
        prefix: what is typed of the word.
        parsed_args: has ``words``, those before it.
        configs: whether the verb takes a config.
    """
    words = [w for w in parsed_args.words or [] if "=" not in w]
    if not words:
        return list(list_projects())
    try:
        keys = [f"{key}=" for key in setting_keys(config_class(words[0]))]
    except UserError:  # no such project
        return []
    return keys + (config_names(words[0]) if configs and len(words) == 1 else [])


def setting_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a config class, such as ``optim.lr``."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from setting_keys(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"
