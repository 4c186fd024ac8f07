"""``configs/<slug>/compare.yaml`` as read, and what of it a command chooses."""

import ast
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from common.config import CONFIG_DIR, UserError, nearest
from common.engine.comparison.claims import claims_of
from common.engine.comparison.schema import Comparison, from_mapping, read_yaml
from common.registry import load_project

MAIN = "main"  # what commands and results call the comparison that has no name
NAME = re.compile(r"[A-Za-z_][\w@.-]*")
INHERITED = ("base", "metric", "direction", "margin", "seeds", "shared")


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
    names = [name for spec in specs for name in spec.arms]
    raise UserError(f"{project} has no arm '{arm}'{nearest(arm, names)}")


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
        from_mapping(f"{where}, more.{name}", Comparison, {**shared, **(content or {})})
        for name, content in main.more.items()
    ]
    for name in dict.fromkeys([*main.baselines, *(n for s in further for n in s.baselines)]):
        check_baseline(project, name)
    for spec, name in zip((main, *further), (MAIN, *main.more), strict=True):
        spec.project, spec.name = project, name
        spec.arms = {arm: {**spec.shared, **settings} for arm, settings in spec.arms.items()}
        _check(where if spec is main else f"{where}, more.{name}", spec)
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
    """Arms that run by default."""
    return spec.default_arms or list(spec.arms)


def choose_comparisons(specs: Sequence[Comparison], only: str) -> list[Comparison]:
    """Those that a command asks for: all, or the one of that name (``main``: the first).

    Raises:
        UserError: no comparison is called so.
    """
    if not only:
        return list(specs)
    by_name = {spec.name: spec for spec in specs}
    if only not in by_name:
        raise UserError(f"ONLY={only}: no such comparison; there are {', '.join(by_name)}")
    return [by_name[only]]


def choose_arms(specs: Sequence[Comparison], arms: Sequence[str]) -> list[list[str]]:
    """Arms of each comparison that a command asks for.

    Args:
        specs: comparisons of a project.
        arms: names, or ["full"] for all (see `asks_for_all`); empty for the default arms.

    Raises:
        UserError: no comparison has such an arm.
    """
    names = {arm for spec in specs for arm in spec.arms}
    if asks_for_all(arms, names):
        return [list(spec.arms) for spec in specs]
    for arm in arms:
        if arm not in names:
            raise UserError(f"no arm '{arm}'{nearest(arm, names)}")
    if not arms:
        return [default_arms(spec) for spec in specs]
    return [[arm for arm in arms if arm in spec.arms] for spec in specs]


def asks_for_all(arms: Sequence[str], names: Collection[str]) -> bool:
    """Whether a command means every arm: ``full`` or ``all``, whichever is no arm's own name."""
    return list(arms) in (["full"], ["all"]) and arms[0] not in names


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
            f"SEEDS={asked}: compare.yaml has the seeds {spec.seeds}; give others as a list "
            "(SEEDS=10,11), or add them there for a verdict"
        )
    return list(spec.seeds[: int(asked)])


def _check(where: str, spec: Comparison) -> None:
    if not spec.seeds or len(set(spec.seeds)) < len(spec.seeds) or min(spec.seeds) < 0:
        raise UserError(f"{where}: seeds must be distinct and >= 0, got {spec.seeds}")
    for name in (*spec.arms, *spec.baselines):
        if not NAME.fullmatch(name):
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
