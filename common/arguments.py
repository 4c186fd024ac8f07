"""How a verb of the command line is declared, and how its words are read.

A verb takes bare names in a fixed order (``simcse mini``), settings (``optim.lr=1e-3``) anywhere
among them, and its own options. Nothing here imports torch.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Never

from common.completion import complete_words
from common.config import UserError, nearest


@dataclass(frozen=True)
class Verb:
    """One verb: what its help says, what it takes, and the function that runs it.

    Args:
        group: heading of ``contrastive --help`` that lists it.
        summary: one sentence.
        example: words behind ``contrastive`` for its help.
        run: called with the namespace that `parse` returns.
        names: bare words in their order, such as project and config; ``("projects",)`` takes any
            number of them.
        required: how many of them must be given.
        settings: which ``key=value`` it takes.
        options: flag -> keyword arguments of `ArgumentParser.add_argument`.
    """

    group: str
    summary: str
    example: str
    run: Callable[[argparse.Namespace], None]
    names: tuple[str, ...] = ()
    required: int = 0
    settings: Literal["", "any", "runs_dir"] = ""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def usage(self, name: str) -> str:
        """The line that shows the order of the words."""
        words = [
            f"<{word}>" if index < self.required else f"[<{word}>]"
            for index, word in enumerate(self.names)
        ]
        settings = {"": [], "any": ["[key=value ...]"], "runs_dir": ["[runs_dir=<folder>]"]}
        options = ["[options]"] if self.options else []
        return " ".join(["contrastive", name, *words, *settings[self.settings], *options])


class Parser(argparse.ArgumentParser):
    """Reports what it cannot read as `UserError`, like everything else that a user can cause."""

    def error(self, message: str) -> Never:
        """Raise instead of printing the usage and exiting."""
        raise UserError(f"{message}; see {self.prog} --help")


def build_parser(verbs: Mapping[str, Verb]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command, and that of each verb."""
    groups: dict[str, list[str]] = {}
    for name, verb in verbs.items():
        groups.setdefault(verb.group, []).append(f"  {name:12} {verb.summary}")
    listing = "\n\n".join(f"{group}:\n" + "\n".join(lines) for group, lines in groups.items())
    parser = Parser(
        prog="contrastive",
        usage="contrastive <verb> ...",
        description=f"Train and compare contrastive-learning papers.\n\n{listing}",
        epilog="contrastive <verb> --help lists the options of a verb. In a checkout make does the same:"
        "\nmake train PROJECT=simcse CONFIG=mini seed=1, make compare PROJECT=simcse SEEDS=2 PLAN=1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    adder = parser.add_subparsers(dest="verb", help=argparse.SUPPRESS)
    return parser, {name: _add_verb(adder, name, verb) for name, verb in verbs.items()}


def _add_verb(adder: Any, name: str, verb: Verb) -> Parser:
    parser: Parser = adder.add_parser(
        name,
        prog=f"contrastive {name}",
        usage=verb.usage(name),
        description=verb.summary,
        epilog=f"example: contrastive {verb.example}",
        allow_abbrev=False,
    )
    words = parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    if verb.names[:1] in (("project",), ("projects",)):
        completer = partial(complete_words, configs="config" in verb.names)
        words.completer = completer  # type: ignore[attr-defined]  # read by argcomplete
    for flag, keywords in verb.options.items():
        parser.add_argument(flag, **keywords)
    return parser


def parse(verbs: Mapping[str, Verb], argv: Sequence[str]) -> argparse.Namespace | None:
    """Read a command line; None where only help was asked for or nothing was typed.

    Returns:
        A namespace with ``verb``, the value of each of its ``names`` (None where it is left out; a
        list for ``projects``), ``settings`` (a list of ``key=value``) and the verb's options.

    Raises:
        UserError: an unknown verb or option (names the nearest), too many or too few words.
    """
    parser, parsers = build_parser(verbs)
    if not argv:
        parser.print_help()
        return None
    name, *rest = argv
    if name not in verbs:
        if name.startswith("-"):
            parser.parse_args(argv)  # --help prints and exits
        raise UserError(f"no verb '{name}'{nearest(name, verbs)}")
    args, unknown = parsers[name].parse_known_intermixed_args(rest)
    if unknown:
        flag = unknown[0].split("=")[0]
        raise UserError(f"{name} takes no {flag}{nearest(flag, verbs[name].options)}")
    args.verb = name
    _split_words(name, verbs[name], args)
    return args


def _split_words(name: str, verb: Verb, args: argparse.Namespace) -> None:
    bare = [word for word in args.words if "=" not in word]
    args.settings = [word for word in args.words if "=" in word]
    if verb.names == ("projects",):
        args.projects = [word for word in bare if word]
    elif len(bare) > len(verb.names):
        rest = " ".join(bare[len(verb.names) :])
        raise UserError(f"{name} takes {_AT_MOST.get(verb.names, 'two names')}: {rest}")
    elif verb.names[1:2] == ("config",) and bare[1:2] == [""]:  # a variable that is not set
        raise UserError("the name of the config is empty: give one, or leave the word out")
    if args.settings and not verb.settings:
        raise UserError(f"{name} takes no settings: {' '.join(args.settings)}")
    for word in args.settings:
        key = word.split("=")[0]
        if verb.settings == "runs_dir" and key != "runs_dir":
            raise UserError(f"{name} takes no setting but runs_dir=...: {word}")
        if key.lower() in ("project", "config"):
            raise UserError(
                f"'{word}' is not a setting: type contrastive {name} <project> <config>, or"
                f" make {name} PROJECT=... CONFIG=..."
            )
    if verb.names != ("projects",):
        for index, key in enumerate(verb.names):
            setattr(args, key, bare[index] if index < len(bare) and bare[index] else None)


_AT_MOST = {
    (): "no project and no config",
    ("project",): "one project and no config",
    ("project", "config"): "one project, one config and settings of the form section.key=value",
    ("slug",): "one name",
}
