"""What was typed behind ``make``, as words of the command line.

GNU make hands ``make train PROJECT=simcse optim.lr=1e-3`` to the recipe in the environment variable
MAKEFLAGS, with blanks and dollars escaped. The Makefile never refers to these values, so neither
make nor a shell evaluates them.
"""

import re
from collections.abc import Mapping
from dataclasses import fields

from common.arguments import Verb
from common.config import ExperimentConfig, UserError, nearest

SCRIPTS = {  # targets that run a script: what they read, and the words behind `python`
    "mutants": ("PROJECT", "ARGS"),
    "bench": ("KERNEL", "ARGS"),
    "gpu-check": ("ARGS",),
    "test-peers": ("ARGS",),
    "faults": ("ARGS",),
    "arena": ("FAMILY", "SCALE", "JOBS", "ARGS"),
}
FIELDS = {field.name for field in fields(ExperimentConfig)}
ON, OFF = ("1", "yes", "true"), ("", "0", "no", "false")


def assignments(makeflags: str) -> dict[str, str]:
    r"""Variables of make's command line, in the order that make keeps them.

    >>> assignments(r"k -j2 -- a.b=$$x\ y PROJECT=simcse")
    {'PROJECT': 'simcse', 'a.b': '$x y'}

    Raises:
        UserError: an assignment that make itself evaluates (``NAME:=...``).
    """
    words = re.findall(r"(?:\\.|[^ \t\\])+", makeflags, flags=re.DOTALL)
    if "--" in words:
        words = words[words.index("--") + 1 :]
    typed = {}
    for word in words:
        name, sign, value = re.sub(r"\\(.)|\$(\$)", r"\1\2", word, flags=re.DOTALL).partition("=")
        if not sign or name.startswith("-"):
            continue  # one of make's own flags, which old versions do not separate
        if name.endswith((":", "!", "?", "+")):
            raise UserError(f"'{name}={value}': type {name.rstrip(':!?+')}=... with a plain '='")
        typed[name] = value
    return dict(reversed(typed.items()))


def command(target: str, environment: Mapping[str, str], verbs: Mapping[str, Verb]) -> list[str]:
    """Words of a target: those behind ``contrastive``, or behind ``python`` for a script.

    Args:
        target: a verb or one of `SCRIPTS`.
        environment: holds MAKEFLAGS; a variable that the target takes may be set here as well.
        verbs: those of the command line.

    Raises:
        UserError: a variable that the target does not take, or a value with a line break.
    """
    typed = assignments(environment.get("MAKEFLAGS", ""))
    for name in ("PYTHON", "EVAL"):  # read when the environment is installed
        typed.pop(name, None)
    takes = SCRIPTS.get(target) or _variables(verbs[target])
    settings = [f"{name}={value}" for name, value in typed.items() if not name.isupper()]
    for name in typed:
        if name.isupper() and name not in takes:
            raise UserError(f"make {target} takes no {name}{nearest(name, takes)}")
        if name.upper() in takes and name not in FIELDS and not name.isupper():
            raise UserError(f"'{name}={typed[name]}': type {name.upper()}={typed[name]}")
    given = {name: typed.get(name, environment.get(name, "")) for name in takes}
    for name, value in {**typed, **given}.items():
        if "\n" in value:
            raise UserError(f"the value of {name} has a line break")
    if target not in SCRIPTS:
        return [target, *_words(verbs[target], given, settings)]
    if settings:
        raise UserError(f"make {target} takes no settings: {' '.join(settings)}")
    return _script(target, given)


def _variables(verb: Verb) -> list[str]:
    names = ["PROJECT" if name == "projects" else name.upper() for name in verb.names]
    return names + [_variable(flag) for flag in verb.options]


def _variable(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_").upper()


def _words(verb: Verb, given: Mapping[str, str], settings: list[str]) -> list[str]:
    if verb.names == ("projects",):
        names = given["PROJECT"].split()
    else:
        names = [given[name.upper()] for name in verb.names]
    while names and not names[-1]:
        names.pop()
    options = []
    for flag, keywords in verb.options.items():
        value = given[_variable(flag)]
        if keywords.get("action") == "store_true":
            if value.lower() not in ON + OFF:
                raise UserError(f"{_variable(flag)}={value}: type 1 or 0")
            options += [flag] if value.lower() in ON else []
        elif value:
            options.append(f"{flag}={value}")
    return [*names, *settings, *options]


def _script(target: str, given: Mapping[str, str]) -> list[str]:
    words = given["ARGS"].split()
    if target == "mutants":
        return ["scripts/mutants.py", given["PROJECT"], *words]
    if target == "bench":
        return [f"benchmarks/bench_{given['KERNEL'] or 'losses'}.py", *words]
    if target == "gpu-check":
        return ["benchmarks/gpu_check.py", *words]
    if target == "test-peers":
        return ["scripts/peers.py", *words]
    if target == "arena":
        options = {name: given[name] for name in ("SCALE", "JOBS") if given[name]}
        flags = [f"--{name.lower()}={value}" for name, value in options.items()]
        return ["-m", "arena", given["FAMILY"] or "images", *flags, *words]
    folders = ["tests/faults", "tests/nightly", "tests/unit/kernels"]
    return ["-m", "pytest", *folders, "--nightly", *words]
