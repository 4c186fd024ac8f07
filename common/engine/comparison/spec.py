"""``configs/<slug>/compare.yaml`` as read: comparisons, and the claims as they are judged."""

import ast
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.config import CONFIG_DIR, UserError, nearest
from common.engine.comparison.claims import NAME, parse
from common.engine.comparison.expressions import Part, arms_of
from common.engine.comparison.schema import (
    ClaimEntry,
    Comparison,
    NotTestable,
    from_mapping,
    read_yaml,
)
from common.registry import load_project

MAIN = "main"  # what commands call the comparison that has no name
INHERITED = ("base", "metric", "direction", "margin", "seeds", "shared")


@dataclass(frozen=True)
class Claim:
    """A claim with everything that its verdict depends on.

    Attributes:
        text: as printed, with metric and margin if it has its own.
        parts: all of them must hold.
        signs: of each part; -1 where less is better.
        metric: key of metrics.json.
        maximise: whether more of the metric is better.
        threshold: that the difference must exceed, in the direction of the claim.
        extras: own metric, margin and at_least, for the result file.
        paper: what the paper reports, or "ours".
        appendix: judged where its arms have run, never counted.
        not_testable: why not.
        published: the paper's values of the two sides, or nothing.
        others: the same claim in further metrics; all must hold for its verdict.
    """

    text: str
    parts: tuple[Part, ...]
    signs: tuple[float, ...]
    metric: str
    maximise: bool
    threshold: float
    extras: Mapping[str, Any]
    paper: str
    appendix: bool
    not_testable: NotTestable | None
    published: tuple[float, ...] = ()
    others: "tuple[Claim, ...]" = ()

    @property
    def arms(self) -> list[str]:
        """Arms and baselines that it compares."""
        return arms_of(*(node for part in self.parts for node in (part.left, part.right)))

    @property
    def needed(self) -> list[str]:
        """Arms and baselines that must have run for its verdict."""
        premise = [] if self.not_testable is None else self.not_testable.difference
        return list(dict.fromkeys([*self.arms, *premise]))

    @property
    def rule(self) -> str:
        """Eight hexadecimal digits of what its verdict depends on beside its text."""
        own = None if self.not_testable is None else asdict(self.not_testable)
        parts = [
            self.metric,
            self.signs,
            self.threshold,
            own,
            self.published,
            [c.rule for c in self.others],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def arm_settings(project: str, arm: str, overrides: Sequence[str] = ()) -> tuple[str, list[str]]:
    """The config that an arm of the project's comparisons starts from, and its settings as words.

    Args:
        project: slug.
        arm: name; of the first comparison that has it.
        overrides: that come with it.

    Raises:
        UserError: no comparison has such an arm, or it sets what is to be overridden.
    """
    specs = read_comparisons(project)
    for spec in specs:
        if arm in spec.arms:
            for word in overrides:
                if (key := word.split("=", 1)[0]) in spec.arms[arm]:
                    raise UserError(
                        f"'{word}' makes another arm: compare.yaml sets {key} for '{arm}'"
                    )
            return spec.base, [
                f"{key}={json.dumps(value)}" for key, value in spec.arms[arm].items()
            ]
    known = [name for spec in specs for name in spec.arms]
    raise UserError(f"{project} has no arm '{arm}'{nearest(arm, known)}")


def read_comparison(project: str) -> Comparison:
    """The first comparison of the project's compare.yaml, arms with the shared overrides.

    Raises:
        UserError: as `read_comparisons`.
    """
    return read_comparisons(project)[0]


def read_comparisons(project: str) -> list[Comparison]:
    """All comparisons of the project's compare.yaml, the main one first.

    Raises:
        UserError: the file is missing, does not fit the schema, or a claim names an unknown arm or
            one that does not run by default.
    """
    path = CONFIG_DIR / project / "compare.yaml"
    where = f"configs/{project}/compare.yaml"
    if not path.is_file():
        raise UserError(f"project '{project}' has no compare.yaml")
    main = from_mapping(where, Comparison, read_yaml(where, path))
    shared = {key: getattr(main, key) for key in INHERITED}
    further = [
        from_mapping(f"{where}, more.{name}", Comparison, {**shared, **(own or {}), "name": name})
        for name, own in main.more.items()
    ]
    for name in dict.fromkeys([*main.baselines, *(n for s in further for n in s.baselines)]):
        check_baseline(project, name)
    for spec in (main, *further):
        spec.arms = {arm: {**spec.shared, **own} for arm, own in spec.arms.items()}
        _check(f"{where}{f', more.{spec.name}' if spec.name else ''}", spec)
    return [main, *further]


def check_baseline(project: str, name: str) -> None:
    """Refuse a baseline that the project doesn't have, without importing it.

    Raises:
        UserError: no baselines.py, or nothing of that name in it.
    """
    path = Path(str(load_project(project).__file__)).parent / "baselines.py"
    if not path.is_file():
        raise UserError(f"baseline '{name}': projects/{project}/baselines.py does not exist")
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound = (n for target in node.targets for n in ast.walk(target))
            names |= {n.id for n in bound if isinstance(n, ast.Name)}
    if name not in names:
        raise UserError(
            f"no baseline '{name}' in projects/{project}/baselines.py{nearest(name, names)}"
        )


def default_arms(spec: Comparison) -> list[str]:
    """Arms that run without being asked for."""
    return spec.default_arms or list(spec.arms)


def choose_comparisons(specs: Sequence[Comparison], only: str) -> list[Comparison]:
    """Those that a command asks for: all, or the one of that name (``main``: the first).

    Raises:
        UserError: no comparison is called so.
    """
    if not only:
        return list(specs)
    known = {spec.name or MAIN: spec for spec in specs}
    if only not in known:
        raise UserError(f"ONLY={only}: no such comparison; there are {', '.join(known)}")
    return [known[only]]


def choose_arms(specs: Sequence[Comparison], arms: Sequence[str]) -> list[list[str]]:
    """Arms of each comparison that a command asks for.

    Args:
        specs: comparisons of a project.
        arms: names, or ["full"] for all (see `asks_for_all`); empty for the default arms.

    Raises:
        UserError: no comparison has such an arm.
    """
    known = {arm for spec in specs for arm in spec.arms}
    if asks_for_all(arms, known):
        return [list(spec.arms) for spec in specs]
    for arm in arms:
        if arm not in known:
            raise UserError(f"no arm '{arm}'{nearest(arm, known)}")
    if not arms:
        return [default_arms(spec) for spec in specs]
    return [[arm for arm in arms if arm in spec.arms] for spec in specs]


def asks_for_all(arms: Sequence[str], known: Collection[str]) -> bool:
    """Whether a command means every arm: ``full`` or ``all``, whichever is no arm's own name."""
    return list(arms) in (["full"], ["all"]) and arms[0] not in known


def choose_seeds(spec: Comparison, asked: str | None) -> list[int]:
    """Seeds of a comparison: all of its own, the first n (``3``), or a list (``10,11``).

    Raises:
        UserError: neither a count up to the number of its seeds nor a list.
    """
    if asked is None:
        return list(spec.seeds)
    words = [w for w in asked.split(",") if w]
    if not words or not all(w.isdigit() for w in words) or len(set(words)) < len(words):
        raise UserError(f"SEEDS={asked}: give a count (SEEDS=2) or a list (SEEDS=10,11)")
    if "," in asked:
        return [int(w) for w in words]
    if not 1 <= int(asked) <= len(spec.seeds):
        raise UserError(
            f"SEEDS={asked}: compare.yaml has the seeds {spec.seeds}; name others as a list "
            "(SEEDS=10,11), or add them there for a verdict"
        )
    return list(spec.seeds[: int(asked)])


def claims_of(spec: Comparison) -> list[Claim]:
    """The claims of a comparison, those of the appendix last.

    Raises:
        UserError: a claim that is not of the form of `common.engine.comparison.claims`, compares
            no arms, or has one that doesn't run by default.
    """
    found = [claim for entry in spec.claims for claim in _claims(spec, entry)]
    found += [claim for entry in spec.appendix for claim in _claims(spec, entry, appendix=True)]
    return sorted(found, key=lambda claim: claim.appendix)


def _claims(spec: Comparison, entry: Any, appendix: bool = False) -> list[Claim]:
    short = isinstance(entry, str)
    own = _short(entry) if short else from_mapping(f"claim {entry}", ClaimEntry, entry)
    names = [*spec.arms, *spec.baselines]
    claims = [_claim(spec, own, parts, appendix) for parts in parse(own.claim, names)]
    runs_by_default = {*default_arms(spec), *spec.baselines}
    for i, claim in enumerate(claims):
        if not claim.arms:
            raise UserError(f"claim '{own.claim}' compares no arms")
        optional = [arm for arm in claim.needed if arm not in runs_by_default]
        for arm in claim.needed:
            if arm not in names:
                raise UserError(f"claim '{own.claim}': no arm '{arm}'{nearest(arm, names)}")
        if optional and not appendix and not short:
            raise UserError(
                f"claim '{own.claim}': arm '{optional[0]}' does not run by default; add it to "
                "default_arms, or move the claim to appendix"
            )
        if optional and short:  # the short form has always been judged where its arms have run
            claims[i] = _claim(spec, own, claim.parts, appendix=True)
    return claims


_OWN = re.compile(r"(?<=[\w@*)])\s+\((\w+)(?:, margin ([0-9.]+))?\)\s*$")  # after an arm


def _short(text: str) -> ClaimEntry:
    """The short form: ``a > b``, ``a > b (metric)`` or ``a > b (metric, margin 0.01)``."""
    found = _OWN.search(text)
    if found is None:
        return ClaimEntry(claim=text)
    margin = None if found[2] is None else float(found[2])
    return ClaimEntry(claim=text[: found.start()].strip(), metric=found[1], margin=margin)


def _claim(spec: Comparison, own: ClaimEntry, parts: tuple[Part, ...], appendix: bool) -> Claim:
    direction = own.direction or spec.direction
    signs, texts = [], []
    for part in parts:
        spread, less = part.has_spread, part.sign == "<"
        if less and direction == "max" and not spread:
            raise UserError(
                f"claim '{own.claim}': more is better here, so write '{part.text[1]} > "
                f"{part.text[0]}', or give the claim direction: min"
            )
        less = less or (direction == "min" and not spread)
        signs.append(-1.0 if less else 1.0)
        texts.append(f"{part.text[0]} {'<' if less else '>'} {part.text[1]}")
    text, extras = " and ".join(texts), dict[str, Any]()
    if own.metric is not None:
        text, extras["metric"] = f"{text} in {own.metric}", own.metric
    if own.margin is not None:
        text, extras["margin"] = f"{text} - {own.margin:g}", own.margin
    if own.at_least:
        text, extras["at_least"] = f"{text} by at least {own.at_least:g}", own.at_least
    if own.published:
        left, right = own.published
        if len(parts) > 1 or own.and_in:
            raise UserError(f"claim '{own.claim}': published is of one difference in one metric")
        if right <= 0 or signs[0] * (left - right) <= 0:
            raise UserError(
                f"claim '{own.claim}': published values {left:g} and {right:g} do not show what it "
                "says, left against right in the direction of the claim"
            )
    allowed = spec.margin if own.margin is None else own.margin
    others = tuple(
        _claim(spec, replace(own, metric=metric, direction=way, and_in={}), parts, appendix)  # type: ignore[arg-type]
        for metric, way in own.and_in.items()
    )
    if others:
        text, extras["and_in"] = f"{text} and in {', '.join(own.and_in)}", dict(own.and_in)
    return Claim(
        text,
        parts,
        tuple(signs),
        own.metric or spec.metric,
        direction == "max",
        own.at_least or -allowed,
        extras,
        own.paper,
        appendix,
        own.not_testable,
        tuple(own.published),
        others,
    )


def _check(where: str, spec: Comparison) -> None:
    if not spec.seeds or len(set(spec.seeds)) < len(spec.seeds) or min(spec.seeds) < 0:
        raise UserError(f"{where}: seeds must be distinct and >= 0, got {spec.seeds}")
    for name in (*spec.arms, *spec.baselines):
        if not NAME.fullmatch(name) or name == "and":
            raise UserError(f"{where}: '{name}' can't be the name of an arm or baseline")
        if name in spec.arms and name in spec.baselines:
            raise UserError(f"{where}: '{name}' is an arm and a baseline")
    for name in spec.bounds:
        if name not in spec.baselines:
            raise UserError(f"{where}: bounds: no baseline '{name}'{nearest(name, spec.baselines)}")
    for arm in spec.default_arms:
        if arm not in spec.arms:
            raise UserError(f"{where}: default_arms: no arm '{arm}'{nearest(arm, spec.arms)}")
    try:
        claims_of(spec)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
