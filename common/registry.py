"""Projects by convention: every folder under ``projects/`` with an ``__init__.py`` is one."""

import ast
import importlib
import re
from collections import Counter
from types import ModuleType
from typing import Any

from common.config import ROOT, ExperimentConfig, UserError, nearest

PROJECT_DIR = ROOT / "projects"
ARENA = "arena_"  # slugs of the packages in arena/, which are no papers


def list_projects() -> dict[str, str]:
    """Map each project's slug to the first line of its docstring, without importing it."""
    projects = {}
    for init in sorted(PROJECT_DIR.glob("*/__init__.py")):
        if not init.parent.name.startswith("_"):
            doc = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
            projects[init.parent.name] = doc.split("\n", 1)[0]
    return projects


# packages of `common` that show what a project is about, the more specific first -> heading
FIELDS = {
    "speech": "Speech",
    "image_text": "Images and texts",
    "images": "Images",
    "image": "Images",
    "retrieval": "Retrieval and search",
    "sentences": "Sentence embeddings",
    "decoding": "Language models",
    "text": "Texts",
}
_PACKAGE = re.compile(
    r"from common\.(?:(families)\.(\w+)|(?:data|encoders|evaluation)\.(\w+)|(decoding))"
)
_STATED = re.compile(r"^Field: (.+)\.$", re.MULTILINE)
_FEW = 3  # imports that show nothing yet


def field_of(slug: str) -> str:
    """What a project is about, without importing it.

    The line ``Field: ...`` of its docstring; else its family; else the package of `common` that it
    imports from.
    """
    folder = PROJECT_DIR / slug
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    if stated := _STATED.search(doc):
        return stated[1]
    families: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    for path in sorted(folder.glob("*.py")):
        for match in _PACKAGE.finditer(path.read_text(encoding="utf-8")):
            if match[1]:
                families[match[2]] += 1
            else:
                packages[match[3] or match[4]] += 1
    if families:
        return FIELDS.get(families.most_common(1)[0][0], "Others")
    return next((field for name, field in FIELDS.items() if packages[name] >= _FEW), "Others")


def load_project(slug: str) -> ModuleType:
    """Import ``projects.<slug>``; it has ``Config`` and ``build(cfg) -> Experiment``.

    ``arena_<family>`` is ``arena.<family>``.

    Raises:
        UserError: no such project (names the nearest one).
    """
    names = [p.parent.name for p in PROJECT_DIR.glob("*/__init__.py")]
    arenas = {ARENA + p.parent.name: p.parent.name for p in ROOT.glob("arena/*/__init__.py")}
    if slug in arenas:
        return importlib.import_module(f"arena.{arenas[slug]}")
    if slug not in names:
        hint = nearest(slug, names) if slug else "; valid: " + ", ".join(sorted(names))
        raise UserError(f"no project '{slug}'{hint}")
    return importlib.import_module(f"projects.{slug}")


def config_class(slug: str) -> type[ExperimentConfig]:
    """The project's config schema."""
    schema: Any = load_project(slug).Config
    if not issubclass(schema, ExperimentConfig):
        raise TypeError(f"projects.{slug}.Config must subclass ExperimentConfig")
    return schema  # type: ignore[no-any-return]
