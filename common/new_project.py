"""Write the skeleton of a project: projects/<slug>, configs/<slug>, tests/projects/<slug>.

With them a changelog fragment. Copies ``scripts/project_template``, where a project named
new_project stands, under another name. No existing file is touched, so projects that are begun side
by side never conflict.
"""

import re
from pathlib import Path

from common.config import ROOT, UserError

TEMPLATE = ROOT / "scripts" / "project_template"
FOLDERS = ("projects", "configs", "tests/projects")


def renamed(text: str, slug: str) -> str:
    """The template's text for a slug; the module class is the slug in camel case.

    >>> renamed("class NewProject of new_project", "one_to_k")
    'class OneToK of one_to_k'
    """
    camel = "".join(part.capitalize() for part in slug.split("_"))
    return text.replace("new_project", slug).replace("NewProject", camel)


def write_project(slug: str, root: Path) -> list[Path]:
    """Write the files below `root` and return them.

    Raises:
        UserError: the name is no slug, or a folder of that name exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug) or len(slug) > 24:
        raise UserError(
            f"SLUG={slug}: type a lower-case name of at most 24 letters, such as SLUG=my_paper"
        )
    sources = [p for p in sorted(TEMPLATE.rglob("*")) if p.suffix in (".py", ".yaml", ".md")]
    wanted = {root / renamed(str(p.relative_to(TEMPLATE)), slug): p for p in sources}
    for path in [*(root / folder / slug for folder in FOLDERS), *wanted]:
        if path.exists():
            raise UserError(f"{path.relative_to(root)} exists")
    for path, source in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(renamed(source.read_text(encoding="utf-8"), slug), encoding="utf-8")
    return list(wanted)
