"""docs/sizes.md: how large each project is, and why where it is large.

Lines are those of its Python files, docstrings and blank lines included. The core is what a reader
of the method needs: `__init__`, config, module and objective, at most 350 lines.
"""

from pathlib import Path

from omegaconf import OmegaConf

LARGE = 700
CORE = ("__init__.py", "config.py", "module.py", "objective.py")
HEAD = f"""# Size of the projects

Written by `make docs` from `projects/*` and the reasons in `docs/sizes.yaml`. *Lines* are those of all Python files of a
project, docstrings and blank lines included; *core* is `__init__`, config, module and objective, which hold the method and
may have 350 lines. A project of more than {LARGE} lines says what they are for.

| project | lines | core | what the rest is |
|---|--:|--:|---|
"""


def sizes(root: Path) -> dict[str, tuple[int, int]]:
    """Project -> lines of all of its modules, and of its core."""
    found = {}
    for folder in sorted(path.parent for path in (root / "projects").glob("*/__init__.py")):
        lines = {p.name: len(p.read_text("utf-8").splitlines()) for p in folder.glob("*.py")}
        found[folder.name] = sum(lines.values()), sum(lines.get(name, 0) for name in CORE)
    return found


def reasons(root: Path) -> dict[str, str]:
    """Project -> what its lines beside the core are for."""
    found = OmegaConf.to_container(OmegaConf.load(root / "docs/sizes.yaml"))
    return {str(key): str(value) for key, value in dict(found).items()}  # type: ignore[arg-type]


def sizes_page(root: Path) -> str:
    """The whole page."""
    why = reasons(root)
    rows = [
        f"| [{name}](../projects/{name}/README.md) | {lines:,} | {core} | {why.get(name, '')} |"
        for name, (lines, core) in sizes(root).items()
    ]
    return HEAD + "\n".join(rows) + "\n"
