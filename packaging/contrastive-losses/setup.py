"""Maps three packages of the repository under one name; what they hold is neither copied nor changed."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup

NAME = "contrastive_losses"
COMMON = Path("../../common")
PARTS = ["distributed", "kernels", "losses"]

shutil.rmtree("build", ignore_errors=True)  # files that have gone since stay in it
packages = [p for p in find_packages(str(COMMON)) if p.split(".")[0] in PARTS]
version = re.search(r'__version__ = "(.+)"', (COMMON / "__init__.py").read_text(encoding="utf-8"))
setup(
    version=version[1] if version else None,
    packages=[NAME, *(f"{NAME}.{package}" for package in packages)],
    package_dir={
        NAME: NAME,
        **{f"{NAME}.{p}": str(COMMON / p.replace(".", "/")) for p in packages},
    },
)
