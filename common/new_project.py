"""Write the skeleton of a project: projects/<slug>, configs/<slug>, tests/projects/<slug>.

``scripts/project_template`` holds what all skeletons share and a folder for each family, in which a
project is called new_project. No existing file changes, so projects that are started in parallel
never conflict.
"""

import re
from pathlib import Path

import yaml

from common.config import ROOT, UserError

TEMPLATE = ROOT / "scripts" / "project_template"
FAMILIES = ("images", "sentences", "image_text", "retrieval")
FOLDERS = ("projects", "configs", "tests/projects")


def renamed(text: str, slug: str) -> str:
    """The template's text for a slug; the module class is the slug in camel case.

    >>> renamed("class NewProject of new_project", "one_to_k")
    'class OneToK of one_to_k'
    """
    camel = "".join(part.capitalize() for part in slug.split("_"))
    return text.replace("new_project", slug).replace("NewProject", camel)


def write_project(slug: str, family: str, root: Path) -> list[Path]:
    """Write the files below `root` and return them.

    Raises:
        UserError: the name is not a slug or already used, or there is no such family.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug) or len(slug) > 24:
        raise UserError(
            f"SLUG={slug}: type a lower-case name of at most 24 letters, such as SLUG=my_paper"
        )
    if family not in FAMILIES:
        raise UserError(
            f"FAMILY={family}: a project starts on a family, one of {', '.join(FAMILIES)}"
        )
    folders = TEMPLATE / "shared", TEMPLATE / family
    sources = {p.relative_to(folder): p for folder in folders for p in sorted(folder.rglob("*"))}
    targets = {
        root / renamed(str(path), slug): source
        for path, source in sources.items()
        if source.suffix in (".py", ".yaml", ".md") and source.name != "card.yaml"
    }
    for path in [*(root / folder / slug for folder in FOLDERS), *targets]:
        if path.exists():
            raise UserError(f"{path.relative_to(root)} exists: type another SLUG")
    for path, source in targets.items():
        text = source.read_text(encoding="utf-8")
        if source.name == "README.md":
            text = _card(text, family)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(renamed(text, slug), encoding="utf-8")
    return list(targets)


def _card(text: str, family: str) -> str:
    """The shared card with what differs between families."""
    parts = yaml.safe_load((TEMPLATE / family / "card.yaml").read_text(encoding="utf-8"))
    for name, part in parts.items():
        text = text.replace(name, part)
    return text
