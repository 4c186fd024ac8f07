"""What a run depends on: the code that it can reach by imports, the data that this code names.

Definitions count, not files (`common.engine.comparison.symbols`): a function that a run cannot
reach may change beside one that it uses. A finished run is reused while this hash, and its config,
are the same. What only writes down how a run goes (`RECORDS`) counts nowhere, nor does a card
beside data or what only `make run` does: the `tasks` modules of the projects and the families'
search.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from common.config import CONFIG_DIR, ROOT
from common.engine.comparison.symbols import WHOLE, file_of, parse, reach
from common.registry import load_project

ENGINE = ("common.engine.run", "train")  # what every run of a project executes beside the project
SEARCHES = ("common.families.retrieval.search", "common.families.sentences.search")  # TASK=search
GPU_KERNELS = "common/kernels/gpu/"  # need a CUDA device (or Triton's interpreter, for tests)
# what only several processes run; one asks `plan.as_sharding` alone, which answers None
SEVERAL_PROCESSES = ("common/kernels/sharded/plan.py", "common/kernels/sharded/statistics.py")
DATA = "data"  # folder of bundled sets and, in models/, weights
# loggers, the lock of a run folder, signals, what shows how far it is, what finds other runs by
# name, this file and its walk, how several processes begin and FSDP is undone (tests show that they
# train as one does): no weights depend on them, and no metrics but the speed and memory that a run
# has logged of itself
RECORDS = frozenset(
    {
        "common/engine/comparison/dependencies.py",
        "common/engine/comparison/symbols.py",
        "common/engine/lifecycle/find.py",
        "common/engine/lifecycle/launch.py",
        "common/engine/lifecycle/lock.py",
        "common/engine/lifecycle/signals.py",
        "common/engine/progress.py",
        "common/engine/tracking.py",
    }
)


@cache
def code_hash(project: str, *modules: str) -> str:
    """Hash of the code and the bundled data that a run of the project depends on.

    Args:
        project: slug.
        modules: what it executes beside the project's package, such as its baselines.
    """
    files = file_hashes(project, *modules)
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:8]


@cache
def file_hashes(project: str, *modules: str) -> dict[str, str]:
    """Files of `code_hash`, relative to the repository, each with the hash of what counts in it."""
    sources = reached(project, *modules)
    code = {p: hashlib.sha256(text.encode()).hexdigest() for p, text in sources.items()}
    data = {p: _content(p) for p in data_files(sources, project)}
    return counted({p.relative_to(ROOT).as_posix(): h[:8] for p, h in (code | data).items()})


def counted(files: Mapping[str, str]) -> dict[str, str]:
    """Files and hashes without `RECORDS` and cards of data, which results made before these rules still list."""
    return {name: value for name, value in files.items() if not (name in RECORDS or _is_card(name))}


def _is_card(name: str) -> bool:
    """A README beside bundled data or a model, which no run reads."""
    return name.startswith("data/") and name.endswith("/README.md")


def without(places: tuple[str, ...], files: Mapping[str, str]) -> dict[str, str]:
    """Files and hashes outside of folders and files."""
    return {name: value for name, value in files.items() if not name.startswith(places)}


def executed(files: Mapping[str, str], *, on_gpu: bool, alone: bool) -> dict[str, str]:
    """Files and hashes of `counted` without what runs cannot have executed.

    Args:
        files: of a result or of today.
        on_gpu: whether the runs had a GPU.
        alone: whether each was one process.
    """
    idle = (() if on_gpu else (GPU_KERNELS,)) + (SEVERAL_PROCESSES if alone else ())
    return without(idle, counted(files))


def forget() -> None:
    """Look at the files again at the next call; until then each is read once per process."""
    for function in (code_hash, file_hashes, reached, parse, file_of, _content):
        function.cache_clear()


@cache
def reached(project: str, *modules: str) -> Mapping[Path, str]:
    """Source files that a run of the project uses, each with the text that counts in it."""
    package = load_project(project).__name__
    entries = [
        ENGINE,
        (package, "Config"),
        (package, "build"),
        *((f"{package}.{name}", WHOLE) for name in modules),
    ]
    return reach(ROOT, entries, without={f"{package}.tasks", *SEARCHES})


def data_files(sources: Mapping[Path, str], project: str = "") -> list[Path]:
    """Files of the bundled sets and weights whose folder is named in the sources or configs."""
    configs = sorted((CONFIG_DIR / project).glob("*.yaml")) if project else []
    text = "\n".join([*sources.values(), *(c.read_text(encoding="utf-8") for c in configs)])
    folders = [*(ROOT / DATA).glob("*/"), *(ROOT / DATA / "models").glob("*/")]
    named = [
        folder
        for folder in folders
        if re.search(rf"['\"/:]{re.escape(folder.name)}(?![\w.-])", text)
        and folder.name != "models"
    ]
    return sorted(path for folder in named for path in folder.rglob("*") if path.is_file())


@cache
def _content(path: Path) -> str:
    """Hash of a file: new weights of an old shape have the old size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
