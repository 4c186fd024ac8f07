"""What Triton needs on a machine besides itself: it builds the launchers of its kernels in C."""

import os
import shutil
import sysconfig
from pathlib import Path


def unmet() -> str:
    """What is missing: a C compiler, the headers of Python; empty if nothing is."""
    own = os.environ.get("CC")
    found = any(shutil.which(name) for name in ([own] if own else ["gcc", "clang"]))
    lacks = [] if found else ["a C compiler (gcc, clang, or what the variable CC names)"]
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # Debian's has no headers
    header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    lacks += [] if header.exists() else [f"{header} (package python3-dev or python3-devel)"]
    return " and ".join(lacks)
