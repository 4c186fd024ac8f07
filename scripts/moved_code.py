"""Results stay fresh when definitions only move between files: `python -m scripts.moved_code COMMIT`.

A result lists the files that its runs depend on, each with the hash of what counts in it, so a
definition that moves makes it stale. Here both trees, that of COMMIT and this one, are cut into
statements. A result that was fresh at COMMIT gets today's hashes if its runs reach the same
statements, wherever they stand (in addition only such as COMMIT has somewhere, never others), and
the same data; it then names COMMIT under "moved". Anything else is listed and left as it is.
"""

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from common.config import ROOT, UserError
from common.engine.comparison import dependencies as deps
from common.engine.comparison.results import comparisons
from common.engine.comparison.symbols import WHOLE, _package, _used, file_of, parse
from common.engine.workspace import read_json, write_json

OWN = ("common", "projects")  # packages whose names may change


class Tree(NamedTuple):
    """What the runs of a project depend on in one state of the repository.

    Attributes:
        code: as `code_hash`.
        files: as `file_hashes`.
        statements: hashes of the reached ones, and of what the names in them stand for.
        all: the same of all statements of `common` and of the project.
    """

    code: str
    files: dict[str, str]
    statements: set[str]
    all: set[str]


def statements(texts: Iterable[str]) -> set[str]:
    """Hashes of the top-level statements, without the modules that names are imported from."""
    found = set()
    for text in texts:
        for statement in ast.parse(text).body:
            for node in ast.walk(statement):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN):
                    node.module = "somewhere"
            found.add(hashlib.sha256(ast.unparse(statement).encode()).hexdigest()[:16])
    return found


def refusal(before: Tree, after: Tree) -> str:
    """Why more than places differ; empty if nothing does."""
    gone = before.statements - after.statements
    if gone:
        return f"{len(gone)} statements are gone or changed"
    if new := after.statements - before.all:
        return f"{len(new)} statements are new"
    data = [
        {name: value for name, value in tree.files.items() if not name.endswith(".py")}
        for tree in (before, after)
    ]
    return "" if data[0] == data[1] else "the data differ"


def was_fresh(known: Mapping[str, Any], before: Tree, idle: tuple[str, ...]) -> bool:
    """Whether a result has the hashes of the earlier tree."""
    files = deps.without(idle, deps.counted(known.get("files", {})))
    return files == deps.without(idle, deps.counted(before.files))


def tree_of(project: str, idle: tuple[str, ...]) -> Tree:
    """This tree's."""
    texts = {p.relative_to(ROOT).as_posix(): t for p, t in deps.reached(project).items()}
    counted = deps.without(idle, {n: t for n, t in texts.items() if n not in deps.RECORDS})
    found = statements(counted.values())
    used = set().union(*(uses(ROOT / name, found) for name in counted))
    everything = [*(ROOT / "common").rglob("*.py"), *(ROOT / "projects" / project).rglob("*.py")]
    return Tree(
        deps.code_hash(project),
        deps.file_hashes(project),
        found | used,
        set().union(*map(_of_file, everything)),
    )


@cache
def _of_file(path: Path) -> set[str]:
    """Hashes of all statements of a file, as `symbols` counts them."""
    source = parse(path, _package(ROOT, path))
    found = statements([source.always.text, *(unit.text for unit in source.units.values())])
    return found | uses(path, found)


def uses(path: Path, among: set[str]) -> set[str]:
    """Hashes of (unit, name, what the name stands for) of a file's units whose statements are among these.

    Two definitions of one name are told apart by it: an import of the other one is a change.
    """
    source = parse(path, _package(ROOT, path))
    found = set()
    for unit in (source.always, *source.units.values()):
        own = statements([unit.text])
        if own <= among:
            inside = {(n, source.units[n].text) for n in unit.names & source.units.keys()}
            outside = {(n, _text(m, n)) for m, n in _used(ROOT, source, unit) if n != WHOLE}
            for name, text in inside | outside:
                told = f"{sorted(own)} {name} {sorted(statements([text]))}"
                found.add(hashlib.sha256(told.encode()).hexdigest()[:16])
    return found


def _text(module: str, name: str) -> str:
    """What a name of a module stands for, followed through modules that pass it on.

    Empty for other packages.
    """
    path = file_of(ROOT, module)
    if path is None:
        return ""
    source = parse(path, _package(ROOT, path))
    if name in source.bindings:
        return _text(*source.bindings[name])
    if name in source.units:
        return source.units[name].text
    run = ast.parse(source.always.text).body  # at import, such as what a decorator registers
    return "".join(ast.unparse(s) for s in run if getattr(s, "name", "") == name)


def idle_places() -> tuple[str, ...]:
    """What a run of one process on a CPU does not execute, as this tree names it."""
    return (deps.GPU_KERNELS, *getattr(deps, "SEVERAL_PROCESSES", ()))


def dump(projects: Iterable[str], idle: Iterable[str]) -> dict[str, Any]:
    """`tree_of` as JSON, for the process that looks at another tree.

    Projects that it has not are left out.
    """
    places = (*idle, *idle_places())
    there = [p for p in projects if (ROOT / "projects" / p / "__init__.py").is_file()]
    trees = {project: tree_of(project, places) for project in there}
    return {
        "idle": places,
        "trees": {
            p: [t.code, t.files, sorted(t.statements), sorted(t.all)] for p, t in trees.items()
        },
    }


def look(root: Path, projects: Iterable[str], idle: Iterable[str]) -> dict[str, Any]:
    """`dump` of the tree in a folder, by this file and that tree's code."""
    words = [str(Path(__file__).resolve()), "--dump", json.dumps([*projects]), json.dumps([*idle])]
    code = (
        "import runpy, sys; sys.path.insert(0, ''); sys.argv = sys.argv[1:];"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{root} could not be read: {done.stderr[-2000:]}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def renew(commit: str) -> list[str]:
    """Give results of moved code today's hashes; a line for each result that was stale."""
    results = {path.stem: path for path in sorted((ROOT / "results").glob("*.json"))}
    git = ["git", "-C", str(ROOT)]
    named = subprocess.run(
        [*git, "rev-parse", "--short=10", commit], capture_output=True, text=True
    )
    if named.returncode:
        raise UserError(f"no commit '{commit}' here")
    commit = named.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "tree"
        subprocess.run([*git, "worktree", "add", "-q", "--detach", old, commit], check=True)
        try:
            there = look(old, results, idle_places())
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", old], check=True)
    idle = tuple(there["idle"])
    lines = []
    for project, path in results.items():
        code, files, reached, everything = there["trees"].get(project, ("", {}, (), ()))
        before, after = Tree(code, files, {*reached}, {*everything}), tree_of(project, idle)
        result = read_json(path)
        for part in comparisons(result):
            known = part.get("verified", part)
            if known["code"] == after.code:
                continue
            alone = not part["hardware"]["gpu"]  # comparisons of several processes there are none
            why = refusal(before, after) if alone else "it was run on a GPU"
            if not was_fresh(known, before, idle):
                why = f"it is no result of {commit}"
            if not why:
                known.update(code=after.code, files=after.files, moved=commit)
            name = f"{project} {part.get('name', '')}".strip()
            lines.append(f"{name}: {why or 'the same statements'}")
        write_json(path, result)
    return lines


if __name__ == "__main__":
    if sys.argv[1] == "--dump":
        json.dump(dump(json.loads(sys.argv[2]), json.loads(sys.argv[3])), sys.stdout)
    else:
        print("\n".join(renew(sys.argv[1])))
